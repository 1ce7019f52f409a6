"""`mpo doctor`."""

from __future__ import annotations

from typing import NoReturn

import click

from mpo.cli.running import run
from mpo.cli.showing import console
from mpo.errors import MpoError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the record on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="All packages; the Python trace of an error.")
def doctor(as_json: bool, verbose: bool) -> NoReturn:
    """Show what is installed, what works, what is missing and the line that installs it.

    A tiny model is put through every backend. Ends with 0 when the core works and with 1 when not.
    """

    def work() -> int:
        try:
            from mpo.pipeline.doctor.examining import examine
            from mpo.render.doctor import doctor as page
        except ImportError as error:
            raise MpoError(
                f"mpo is not whole: {error}.", hint="pip install --force-reinstall mpo-optimizer"
            ) from error

        record = examine()
        if as_json:
            click.echo(record.model_dump_json(indent=1))
        else:
            console().print(page(record, verbose=verbose))
        return 0 if record.ok else 1

    run(work, verbose=verbose, as_json=as_json)
