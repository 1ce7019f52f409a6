"""`mpo history`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from mpo.cli.running import run
from mpo.cli.showing import console


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, help="latency.p50, memory, ...; all if none.")
@click.option("--svg", "drawing", type=click.Path(path_type=Path), help="Draw it into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print series and changes on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show the Python trace of an error.")
def history(
    file: Path, metrics: tuple[str, ...], drawing: Path | None, as_json: bool, verbose: bool
) -> NoReturn:
    """Show figures over time, from the FILE that `mpo bench --append` wrote, and where their level
    changed. It reports; it never fails a build."""

    def work() -> int:
        from mpo.files import writable, write_atomic
        from mpo.pipeline.bench.history import as_text, read, series_of
        from mpo.render.history import svg, terminal

        found = tuple(series_of(read(file), metrics))
        if drawing is not None:
            with writable(drawing):
                write_atomic(drawing, svg(found))
        if as_json:
            click.echo(as_text(found))
        else:
            console().print(terminal(found))
        return 0

    run(work, verbose=verbose, as_json=as_json)
