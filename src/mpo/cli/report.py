"""`mpo report`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from mpo.cli.running import run
from mpo.cli.showing import show_report


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write the page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the record on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show the Python trace of an error.")
def report(folder: Path, html: Path | None, as_json: bool, verbose: bool) -> NoReturn:
    """Show the report of the run folder RUN."""

    def work() -> int:
        from mpo.files import writable, write_atomic
        from mpo.pipeline.run.rebuilt import read_report
        from mpo.render.html import html as page

        record = read_report(folder)
        if html is not None:
            with writable(html):
                write_atomic(html, page(record))
        show_report(record, quiet=False, as_json=as_json, folder=folder)
        return 0

    run(work, verbose=verbose, as_json=as_json)
