"""`mpo plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from mpo.cli.options import recipe_of, run_options, subject_options
from mpo.cli.running import run
from mpo.cli.showing import console
from mpo.errors import UsageError


@click.command()
@subject_options
@run_options
@click.option(
    "--explain", is_flag=True, help="Say for each block why it goes and not its neighbour."
)
def plan(
    subject: str | None,
    output: Path | None,
    overwrite: bool,
    explain: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> NoReturn:
    """Show what would be removed from SUBJECT for the budget: a dry run.

    SUBJECT is a run folder, which answers in seconds from its saved analysis and cost tables, or
    whatever `mpo optimize` takes: then both are measured first, into the run folder, where
    `mpo optimize` finds them. Nothing is trained.
    """

    def work() -> int:
        from mpo.api.runs import plan_recipe, plan_run
        from mpo.pipeline.run.rebuilt import is_run
        from mpo.progress import Bars, prints_to_stderr
        from mpo.render.plan import plan_table

        if subject is not None and is_run(Path(subject)):
            only_budgets(options, output, overwrite)
            found = plan_run(Path(subject), options["budget"], explain=explain)
        else:
            recipe = recipe_of(subject, options)
            with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
                found = plan_recipe(
                    recipe, output, explain=explain, overwrite=overwrite, progress=bars
                )
        if as_json:
            click.echo(found.model_dump_json(indent=1))
        elif not quiet:
            console().print(plan_table(found))
        return 0

    run(work, verbose=verbose, as_json=as_json, resumable=True)


def only_budgets(options: dict[str, Any], output: Path | None, overwrite: bool) -> None:
    """Refuse what a run folder has settled already."""
    given = [key for key, value in options.items() if value not in (None, ()) and key != "budget"]
    given += ["output"] * (output is not None) + ["overwrite"] * overwrite
    if given:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise UsageError(
            f"{flags} cannot be given with a run folder: its tables were measured already.",
            hint="Name the subject in the place of the folder to measure anew.",
        )
