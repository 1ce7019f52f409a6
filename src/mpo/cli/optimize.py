"""`mpo optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from mpo.cli.options import recipe_of, subject_options
from mpo.cli.running import run
from mpo.cli.showing import show_report

STATUS_CODES = {"met": 0, "already-met": 0, "infeasible": 3, "below-floor": 3}


@click.command()
@subject_options
@click.option("-b", "--budget", multiple=True, help="50MB, 12ms, 50%, KEY=VALUE; may be repeated.")
@click.option(
    "--method", type=click.Choice(["mpruner", "mpruner-paper"]), help="mpruner is the default."
)
@click.option("--max-drop", help="Quality that may be lost (1%).")
@click.option("--batch", type=int, help="Batch size of latency and memory (1).")
@click.option("--threads", type=int, help="Threads of latency and memory (the physical cores).")
@click.option("--epochs", type=int, help="Most passes over the training data in recovery (10).")
@click.option("--candidates", type=int, help="Diverse plans that a short recovery compares (2).")
@click.option("--opset", type=int, help="ONNX opset, 18 to 22 (20).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder (runs/SUBJECT).")
@click.option(
    "--overwrite", is_flag=True, help="Start afresh: throw away the run that is in the folder."
)
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
    the same command again goes on where it stopped.
    """

    def work() -> int:
        from mpo.api import run_recipe
        from mpo.progress import Bars, prints_to_stderr

        recipe = recipe_of(subject, options)
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            report, folder = run_recipe(recipe, output, overwrite=overwrite, progress=bars)
        show_report(report, quiet=quiet, as_json=as_json, folder=folder)
        return STATUS_CODES[report.status]

    run(work, verbose=verbose, as_json=as_json)
