"""`mpo export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import click

from mpo.cli.options import answer_options
from mpo.cli.running import run
from mpo.cli.showing import console
from mpo.errors import UsageError

RECIPE = ("batch", "opset", "seed", "weights", "allow_pickle", "data", "input", "max_drop")


@click.command()
@click.argument("subject")
@click.option(
    "--to",
    multiple=True,
    default=("onnx",),
    show_default=True,
    help="onnx, openvino, tensorrt-rtx, tensorrt, or a plugin's; commas between.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "int8-dynamic"]),
    help="Of every file (the run's own, else fp32).",
)
@click.option(
    "--dynamic",
    multiple=True,
    help="Free axis: input:0=batch[1:32]; batch[1:8:32] gives sizes only; none fixes all. "
    "Without it the data tell.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    help="Option of one format: tensorrt-rtx.optimization_level=5; may be repeated.",
)
@click.option("--batch", type=int, help="Most common batch size, or the fixed one (1).")
@click.option("--opset", type=int, help="ONNX opset, 18 to 22 (20).")
@click.option("--max-drop", help="Quality that a lower precision may lose (1%).")
@click.option("--weights", help="State dict to load: safetensors, or torch weights-only.")
@click.option("--allow-pickle", is_flag=True, default=None, help="Trust a pickle in --weights.")
@click.option("--data", help="Python file with data(), loss(), metric().")
@click.option("--input", multiple=True, help="Random inputs: 1x3x224x224, input_ids=1x16:int.")
@click.option("--seed", type=int, help="Seed of every random choice (0).")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder (RUN/export, exports/NAME)."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in that folder.")
@answer_options
def export(
    subject: str,
    to: tuple[str, ...],
    settings: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> NoReturn:
    """Write SUBJECT's model as ONNX and in the formats that --to names, each checked.

    SUBJECT is a run folder, whose pruned model is exported, whatever `mpo optimize` takes, or an
    ONNX file. Of a model the ONNX file is always made and compared with the torch model. Exit
    codes: 7 when a format could not be made and the ONNX file could, 3 when a lower precision lost
    more quality than --max-drop.
    """

    def work() -> int:
        from mpo.api import exporting
        from mpo.progress import Bars, prints_to_stderr

        given = {key: options.pop(key) for key in RECIPE}
        recipe = {key: value for key, value in given.items() if value not in (None, ())}
        folder = output or exporting.default_export(subject)
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            record = exporting.export(
                subject,
                to,
                output=folder,
                settings=_settings(settings),
                progress=bars,
                **options,
                **recipe,
            )
        if as_json:
            click.echo(record.model_dump_json(indent=1))
        elif not quiet:
            from mpo.render.export import export_table

            console().print(export_table(record, folder))
        return record.exit_code

    run(work, verbose=verbose, as_json=as_json)


def _settings(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """FORMAT.KEY=VALUE by format; a value that is JSON is read as such."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        format_, dot, key = place.partition(".")
        if not (equals and dot and format_ and key):
            raise UsageError(
                f"--set {text!r} names no option of a format.",
                hint="Write --set tensorrt-rtx.optimization_level=5.",
            )
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found.setdefault(format_, {})[key] = read
    return found
