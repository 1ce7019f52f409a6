"""The command line: parse, call, print, exit. No logic; torch is imported only when a command
runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mpo import __version__
from mpo.errors import MpoError, UsageError

if TYPE_CHECKING:
    from mpo.records import Report

INTERRUPTED, TERMINATED = 130, 143
STATUS_CODES = {"met": 0, "already-met": 0, "infeasible": 3, "below-floor": 3}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mpo")
def cli() -> None:
    """Give mpo a trained PyTorch model, its data and a budget: it returns a smaller model that is
    measured to fit, and the proof."""


def subject_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what the subject is."""
    options = (
        click.argument("subject", required=False),
        click.option("-c", "--config", type=click.Path(path_type=Path), help="Recipe file (TOML)."),
        click.option("--weights", help="State dict to load: safetensors, or torch weights-only."),
        click.option(
            "--allow-pickle", is_flag=True, default=None, help="Trust a pickle in --weights."
        ),
        click.option("--data", help="Python file with data(), loss(), metric()."),
        click.option(
            "--input", multiple=True, help="Random inputs: 1x3x224x224, input_ids=1x16:int."
        ),
        click.option("--seed", type=int, help="Seed of every random choice (0)."),
        click.option(
            "--calibration", type=int, help="Training examples that analysis reads (512)."
        ),
        click.option("--threshold", type=float, help="CKA that joins blocks into one cluster."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, no table."),
        click.option("-v", "--verbose", is_flag=True, help="Show the Python trace of an error."),
        click.option("--json", "as_json", is_flag=True, help="Print the record on stdout."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
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

        recipe = _recipe(subject, options)
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            report, folder = run_recipe(recipe, output, overwrite=overwrite, progress=bars)
        _show(report, quiet=quiet, as_json=as_json, folder=folder)
        return STATUS_CODES[report.status]

    _run(work, verbose=verbose, as_json=as_json)


@cli.command()
@subject_options
def analyze(
    subject: str | None, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> NoReturn:
    """Show the blocks of SUBJECT's model, their similarity, clusters and harm. Changes nothing."""

    def work() -> int:
        from mpo.api import analyze_recipe
        from mpo.progress import Bars, prints_to_stderr
        from mpo.render.terminal import analysis_table

        recipe = _recipe(subject, options)
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            analysis = analyze_recipe(recipe, progress=bars)
        if as_json:
            click.echo(analysis.model_dump_json(indent=1))
        elif not quiet:
            _console().print(analysis_table(analysis))
        return 0

    _run(work, verbose=verbose, as_json=as_json)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write the page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the record on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show the Python trace of an error.")
def report(run: Path, html: Path | None, as_json: bool, verbose: bool) -> NoReturn:
    """Show the report of the run folder RUN."""

    def work() -> int:
        from mpo.api import read_report
        from mpo.render.html import html as page
        from mpo.store import writable, write_atomic

        record = read_report(run)
        if html is not None:
            with writable(html):
                write_atomic(html, page(record))
        _show(record, quiet=False, as_json=as_json, folder=run)
        return 0

    _run(work, verbose=verbose, as_json=as_json)


def _recipe(subject: str | None, options: dict[str, Any]) -> Any:
    from mpo.recipe import make_recipe, read_recipe

    config = options.pop("config", None)
    values = read_recipe(config) if config else {}
    options["subject"] = subject
    given = {key: value for key, value in options.items() if value not in (None, ())}
    if "subject" not in {**values, **given}:
        raise UsageError(
            "No SUBJECT is given.", hint="Name a subject file, or a recipe that names one with -c."
        )
    return make_recipe(**{**values, **given})


def _show(report: Report, *, quiet: bool, as_json: bool, folder: Path) -> None:
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    elif not quiet:
        from mpo.render.terminal import terminal

        _console().print(terminal(report))
        click.echo(f"{folder / 'report.html'}")


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=False)


def _run(work: Callable[[], int], *, verbose: bool, as_json: bool) -> NoReturn:
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = work()
    except MpoError as error:
        if verbose:
            traceback.print_exc()
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        if as_json:
            told = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            click.echo(json.dumps({"schema": "mpo.error/1", **told}, indent=1))
        code = error.exit_code
    except KeyboardInterrupt:
        click.echo("interrupted; finished stages are kept: run the same command again", err=True)
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: no trace on a user's screen
        if verbose:
            traceback.print_exc()
        first = str(error).strip().split("\n")[0]
        click.echo(f"error: {type(error).__name__}: {first}", err=True)
        click.echo(
            "hint: this is a fault in mpo; run with -v for the trace and report it", err=True
        )
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    click.echo("terminated; finished stages are kept: run the same command again", err=True)
    sys.exit(TERMINATED)


def main() -> NoReturn:
    """The console script `mpo`."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    cli(prog_name="mpo")
    sys.exit(0)
