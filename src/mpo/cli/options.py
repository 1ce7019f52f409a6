"""Options that several commands share, and the recipe that they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpo.errors import UsageError

if TYPE_CHECKING:
    from mpo.recipe import Recipe


def manner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much a command says: -q and -v."""
    options = (
        click.option("-q", "--quiet", is_flag=True, help="No progress, no table."),
        click.option("-v", "--verbose", is_flag=True, help="Show the Python trace of an error."),
    )
    return with_options(command, options)


def answer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a command answers: -q, -v and --json."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the record on stdout.")
    return manner_options(as_json(command))


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
        click.option(
            "--harm",
            type=click.Choice(["kl", "boundary", "gates"]),
            help="boundary: harm counts most where decisions are close; gates: learned gates.",
        ),
    )
    return with_options(answer_options(command), options)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a run must hold, where, and which folder keeps it."""
    options = (
        click.option(
            "-b", "--budget", multiple=True, help="50MB, 12ms, 50%, KEY=VALUE; may be repeated."
        ),
        click.option(
            "--target",
            multiple=True,
            help="local, local:cuda:0, ssh://[user@]host[:port]; repeated: budgets hold on each.",
        ),
        click.option("--batch", type=int, help="Batch size of latency and memory (1)."),
        click.option(
            "--threads", type=int, help="Threads of latency and memory (the physical cores)."
        ),
        click.option(
            "--effort",
            type=click.Choice(["normal", "quick"]),
            help="quick measures a fraction of the time, with wider intervals.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "fp16", "int8", "int8-dynamic", "auto"]),
            help="Of the result (fp32); auto: the least harmful one that holds the budgets.",
        ),
        click.option("--opset", type=int, help="ONNX opset, 18 to 22 (20)."),
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), help="Run folder (runs/SUBJECT)."
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Start afresh: throw away the run that is in the folder.",
        ),
    )
    return with_options(command, options)


def with_options(
    command: Callable[..., Any], options: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    """The command with these options, in this order in its help."""
    for option in reversed(options):
        command = option(command)
    return command


def recipe_of(subject: str | None, options: dict[str, Any]) -> Recipe:
    """The recipe of a command: its file's keys, and over them the options given."""
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
