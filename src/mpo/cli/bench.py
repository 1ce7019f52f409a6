"""`mpo bench`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mpo.cli.options import manner_options
from mpo.cli.running import run
from mpo.cli.showing import console

if TYPE_CHECKING:
    from mpo.errors import MpoError
    from mpo.records import Bench

FILE = click.Path(path_type=Path, dir_okay=False)
# The options that are arguments of `mpo.bench`; the others say what becomes of the record.
ASKED = (
    *("baseline", "fail_on", "strict", "target", "data", "inputs", "batch", "threads"),
    *("runner", "trust"),
    *("seconds", "processes", "pairs", "timeout"),
)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="What is measured beside MODEL, of the same kinds; or a JSON record of an earlier bench.",
)
@click.option(
    "--fail-on",
    multiple=True,
    help="latency>3%, memory>2%, size>0, accuracy<-0.5pp, latency.p90>12ms; commas between.",
)
@click.option("--strict", is_flag=True, help="What stays inconclusive fails too (exit 5).")
@click.option(
    "--target", multiple=True, help="local (the default), local:cuda:0, ssh://...; may be repeated."
)
@click.option("--data", help="Subject whose test split and metric judge quality.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    help="1x3x224x224, NAME=1x16:int, or one .npz; the run's samples, or random by default.",
)
@click.option("--batch", type=click.IntRange(1), help="Size of the free first axis (1).")
@click.option(
    "--threads", type=click.IntRange(0), default=0, help="Of one inference (the physical cores)."
)
@click.option(
    "--runner", help="onnx, openvino, tensorrt, ... executes both; the suffix decides by default."
)
@click.option("--trust", multiple=True, help="sha256 of an engine that may be loaded.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 600),
    default=1.0,
    show_default=True,
    help="Of sampling in each process.",
)
@click.option(
    "--processes",
    type=click.IntRange(3, 100),
    default=5,
    show_default=True,
    help="Each model alone in so many, at least.",
)
@click.option(
    "--pairs",
    type=click.IntRange(8, 40),
    default=40,
    show_default=True,
    help="Most pairs; a verdict is sought after 8, 12, 20 and 40.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=300.0,
    show_default=True,
    help="Seconds that one measuring process may take.",
)
@click.option("--json", "json_file", type=FILE, help="Write the record; - prints it on stdout.")
@click.option("--junit", type=FILE, help="Write JUnit XML.")
@click.option("--markdown", type=FILE, help="Write Markdown.")
@click.option("--bmf", type=FILE, help="Write Bencher Metric Format.")
@click.option("--smaller", type=FILE, help="Write customSmallerIsBetter JSON.")
@click.option("--append", "history", type=FILE, help="Add a line to this history (JSONL).")
@click.option("--note", default="", help="Of that line, such as a commit.")
@manner_options
def bench(
    model: Path, json_file: Path | None, quiet: bool, verbose: bool, **options: Any
) -> NoReturn:
    """Measure MODEL (ONNX file, bundle, run folder); compare it with a baseline; gate a release.

    Exit codes: 0 pass, 1 measuring failed, 2 usage, 4 regression confirmed, 5 inconclusive with
    --strict, 6 baseline not comparable.
    """
    on_stdout = json_file is not None and str(json_file) == "-"

    def work() -> int:
        from mpo.errors import MpoError

        try:
            with _commands_stopped():
                record = _measure(model, options, quiet=quiet or on_stdout)
        except MpoError as error:
            _tell_failure(error, options)
            raise
        _write(record, None if on_stdout else json_file, options)
        if on_stdout:
            click.echo(record.model_dump_json(indent=1))
        elif not quiet:
            from mpo.render.bench import terminal

            console().print(terminal(record))
        return record.exit_code

    run(work, verbose=verbose, as_json=on_stdout)


def _measure(model: Path, options: dict[str, Any], *, quiet: bool) -> Bench:
    from mpo.api.benching import bench as measure
    from mpo.progress import Bars, prints_to_stderr

    given = {name: options[name] for name in ASKED}
    with prints_to_stderr(), Bars(quiet=quiet) as bars:
        return measure(model, progress=bars, **given)


def _write(record: Bench, json_file: Path | None, options: dict[str, Any]) -> None:
    """Every file that was asked for, and what a GitHub job takes."""
    from mpo.pipeline.bench.history import append, entry_of
    from mpo.render.bench import markdown
    from mpo.render.bmf import bencher, smaller_is_better
    from mpo.render.ci import outputs, summary, workflow_commands
    from mpo.render.junit import junit

    _save(json_file, lambda: record.model_dump_json(indent=1) + "\n")
    _save(options["junit"], lambda: junit(record))
    _save(options["markdown"], lambda: markdown(record))
    _save(options["bmf"], lambda: bencher(record))
    _save(options["smaller"], lambda: smaller_is_better(record))
    if options["history"] is not None:
        append(options["history"], entry_of(record, options["note"]))
    if _on_github():
        _add("GITHUB_STEP_SUMMARY", summary(record))
        report = str(json_file) if json_file else ""
        _add("GITHUB_OUTPUT", outputs(record, report, secrets.token_hex(16)))
        for command in workflow_commands(record):
            click.echo(command, err=True)


def _tell_failure(error: MpoError, options: dict[str, Any]) -> None:
    """A bench that could not measure is an error in every report, never a silent gap."""
    from mpo.render.ci import error_annotation
    from mpo.render.junit import junit_error

    now = datetime.now(UTC).isoformat(timespec="seconds")
    _save(options["junit"], lambda: junit_error(error.message, error.hint, now))
    if _on_github():
        click.echo(error_annotation(error), err=True)


def _save(path: Path | None, text: Any) -> None:
    from mpo.files import writable, write_atomic

    if path is not None:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text())


def _on_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _add(variable: str, text: str) -> None:
    """Append to the file that a GitHub job names, when it names one."""
    from mpo.files import writable

    if name := os.environ.get(variable):
        with writable(Path(name)), Path(name).open("a", encoding="utf-8") as file:
            file.write(text)


@contextmanager
def _commands_stopped() -> Iterator[None]:
    """Nothing that a model, or a library, brings onto the log meanwhile is a workflow command."""
    token = secrets.token_hex(16)
    if _on_github():
        click.echo(f"::stop-commands::{token}", err=True)
    try:
        yield
    finally:
        if _on_github():
            click.echo(f"::{token}::", err=True)
