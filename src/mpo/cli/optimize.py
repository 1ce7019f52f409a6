"""`mpo optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from mpo.cli.options import recipe_of, run_options, subject_options
from mpo.cli.running import run
from mpo.cli.showing import show_report

STATUS_CODES = {"met": 0, "already-met": 0, "infeasible": 3, "below-floor": 3}
PARTIAL = 7


@click.command()
@subject_options
@run_options
@click.option(
    "--method", type=click.Choice(["mpruner", "mpruner-paper"]), help="mpruner is the default."
)
@click.option("--max-drop", help="Quality that may be lost (1%).")
@click.option("--epochs", type=int, help="Most passes over the training data in recovery (10).")
@click.option(
    "--export",
    multiple=True,
    help="Formats of the result beside ONNX: openvino, tensorrt-rtx; commas between.",
)
@click.option("--candidates", type=int, help="Diverse plans that a short recovery compares (2).")
def optimize(
    subject: str | None,
    output: Path | None,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> NoReturn:
    """Make SUBJECT's model fit the budget; measure and prove it.

    SUBJECT is a Python file with model() and data(), package.module:factory, or hf:FOLDER. Running
    the same command again goes on where it stopped. Ends with 7 when a format of --export could not
    be made.
    """

    def work() -> int:
        from mpo.api.runs import run_recipe
        from mpo.progress import Bars, prints_to_stderr

        recipe = recipe_of(subject, options)
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            report, folder = run_recipe(recipe, output, overwrite=overwrite, progress=bars)
        show_report(report, quiet=quiet, as_json=as_json, folder=folder)
        made = all(one.ok for one in report.formats)
        return STATUS_CODES[report.status] or (0 if made else PARTIAL)

    run(work, verbose=verbose, as_json=as_json)
