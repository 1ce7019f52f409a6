"""`mpo optimize`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mpo.cli.options import recipe_of, run_options, subject_options, with_options
from mpo.cli.running import run
from mpo.cli.showing import show_report

if TYPE_CHECKING:
    from mpo.records import Report

STATUS_CODES = {"met": 0, "already-met": 0, "infeasible": 3, "below-floor": 3, "contract-broken": 4}
UNPROVEN = 5
PARTIAL = 7


def exit_code(report: Report, *, strict: bool) -> int:
    """What a run ends with; under --strict 5 when all is met and the drop is not proved."""
    found = report.acceptance
    code = STATUS_CODES[report.status]
    return UNPROVEN if strict and not code and found and found.verdict == "unproven" else code


def recovery_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what the result may lose and how it is trained."""
    options = (
        click.option("--max-drop", help="Quality that may be lost (1%)."),
        click.option("--epochs", type=int, help="Most passes over the training data (10)."),
        click.option(
            "--candidates", type=int, help="Diverse plans that a short recovery compares (2)."
        ),
        click.option(
            "--finetune/--no-finetune",
            default=None,
            help="Train what is left (yes); no: only make up for what went, by arithmetic.",
        ),
        click.option(
            "--rounds", type=int, help="Steps in which the plan is carried out and recovered (1)."
        ),
        click.option("--accumulate", type=int, help="Batches whose gradients make one update (1)."),
        click.option(
            "--time-limit", help="30m, 90s, 2h: ends with the best model that was found by then."
        ),
        click.option(
            "--distil",
            type=click.Choice(["plain", "boundary"]),
            help="boundary: recovery learns most where the original hardly decides.",
        ),
        click.option(
            "--contract",
            is_flag=False,
            flag_value="eps=5%",
            help="Accept only what does not break this contract: eps=5%,region=10%,mass=10%,...",
        ),
        click.option(
            "--strict",
            is_flag=True,
            help="End with 5 when the drop is allowed but not proved to be.",
        ),
    )
    return with_options(command, options)


@click.command()
@subject_options
@run_options
@click.option(
    "--method", type=click.Choice(["mpruner", "mpruner-paper"]), help="mpruner is the default."
)
@recovery_options
@click.option(
    "--export",
    multiple=True,
    help="Formats of the result beside ONNX: openvino, tensorrt-rtx; commas between.",
)
def optimize(
    subject: str | None,
    output: Path | None,
    strict: bool,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> NoReturn:
    """Make SUBJECT's model fit the budget; measure and prove it.

    SUBJECT is a Python file with model() and data(), package.module:factory, hf:FOLDER or
    timm:NAME. Running the same command again goes on where it stopped. Ends with 7 when a format of
    --export could not be made.
    """

    def work() -> int:
        from mpo.api.runs import run_recipe
        from mpo.pipeline.optimize.crew import follow, joined
        from mpo.progress import Bars, prints_to_stderr

        recipe = recipe_of(subject, options)
        with joined() as crew:
            if crew.rank:
                return follow(recipe, crew)
            with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
                report, folder = run_recipe(
                    recipe, output, overwrite=overwrite, progress=bars, crew=crew
                )
            show_report(report, quiet=quiet, as_json=as_json, folder=folder)
            made = all(one.ok for one in report.formats)
            code = exit_code(report, strict=strict) or (0 if made else PARTIAL)
            crew.leave(code)
        return code

    run(work, verbose=verbose, as_json=as_json, resumable=True)
