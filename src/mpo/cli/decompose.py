"""`mpo decompose`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from mpo.cli.optimize import exit_code, recovery_options
from mpo.cli.options import recipe_of, run_options, subject_options
from mpo.cli.running import run
from mpo.cli.showing import show_report
from mpo.errors import UsageError


@click.command()
@subject_options
@run_options
@recovery_options
@click.option("--classes", help="Numbers of the classes to keep apart: 0,3.")
def decompose(
    subject: str | None,
    classes: str | None,
    output: Path | None,
    strict: bool,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> NoReturn:
    """Make a smaller model of SUBJECT's for some classes, all others counting as one.

    The result answers with the chosen classes in their order and "other" last, holds the budget,
    and is accepted only when it does not break its contract: it decides as the original does.
    """

    def work() -> int:
        from mpo.api.runs import run_recipe
        from mpo.progress import Bars, prints_to_stderr
        from mpo.recipe import DECOMPOSED

        options["classes"] = read_classes(classes)
        options["contract"] = options["contract"] or DECOMPOSED
        recipe = recipe_of(subject, options)
        if not recipe.classes:
            raise UsageError("No classes are given.", hint="Write --classes 0,3.")
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            report, folder = run_recipe(recipe, output, overwrite=overwrite, progress=bars)
        show_report(report, quiet=quiet, as_json=as_json, folder=folder)
        return exit_code(report, strict=strict)

    run(work, verbose=verbose, as_json=as_json)


def read_classes(text: str | None) -> tuple[int, ...] | None:
    """ "0,3" as numbers; None when nothing is given.

    Raises:
        UsageError: something that is no number.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"{text!r} names no classes.", hint="Write --classes 0,3.") from error
