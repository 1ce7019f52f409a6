"""`mpo init`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from mpo.cli.running import run


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--model", "factory", metavar="PACKAGE.MODULE:FACTORY", help="Builds the network.")
@click.option("-v", "--verbose", is_flag=True, help="Show the Python trace of an error.")
def init(folder: Path, factory: str | None, verbose: bool) -> NoReturn:
    """Write a subject file to fill in and a recipe to start from into FOLDER (here)."""

    def work() -> int:
        from mpo.api.starting import start

        for path in start(folder, factory):
            click.echo(f"{path}")
        return 0

    run(work, verbose=verbose, as_json=False)
