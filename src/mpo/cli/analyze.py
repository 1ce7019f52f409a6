"""`mpo analyze`."""

from __future__ import annotations

from typing import Any, NoReturn

import click

from mpo.cli.options import recipe_of, subject_options
from mpo.cli.running import run
from mpo.cli.showing import console


@click.command()
@subject_options
def analyze(
    subject: str | None, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> NoReturn:
    """Show the blocks of SUBJECT's model, their similarity, clusters and harm. Changes nothing."""

    def work() -> int:
        from mpo.api.runs import analyze_recipe
        from mpo.progress import Bars, prints_to_stderr
        from mpo.render.terminal import analysis_table

        recipe = recipe_of(subject, options)
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            analysis = analyze_recipe(recipe, progress=bars)
        if as_json:
            click.echo(analysis.model_dump_json(indent=1))
        elif not quiet:
            console().print(analysis_table(analysis))
        return 0

    run(work, verbose=verbose, as_json=as_json)
