"""Records on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mpo.records import Report


def show_report(report: Report, *, quiet: bool, as_json: bool, folder: Path) -> None:
    """Print a report: its table and where its page is, or the record itself."""
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    elif not quiet:
        from mpo.render.terminal import terminal

        console().print(terminal(report))
        click.echo(f"{folder / 'report.html'}")


def console() -> Any:
    """The terminal that tables are printed on."""
    from rich.console import Console

    return Console(soft_wrap=False)
