"""`mpo package`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from mpo.cli.options import answer_options
from mpo.cli.running import run
from mpo.cli.showing import console


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .mpo file to write."
)
@click.option("--name", default="", help="Of the bundle; the run folder's by default.")
@click.option("--version", default="1.0.0", show_default=True, help="Of the bundle, as you count.")
@click.option(
    "--bundle-version",
    type=click.IntRange(1, 2**31 - 1),
    default=1,
    show_default=True,
    help="Counts up: a device that has seen a higher one refuses a lower.",
)
@click.option("--license", default="NOASSERTION", show_default=True, help="An SPDX identifier.")
@click.option("--license-file", type=click.Path(path_type=Path), help="The licence's text.")
@click.option("--limitation", "limitations", multiple=True, help="A sentence for whoever uses it.")
@click.option(
    "--fallback",
    type=click.Choice(["allow", "refuse"]),
    default="refuse",
    show_default=True,
    help="Whether a device may use its CPU although a GPU was meant.",
)
@click.option(
    "--engine",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "none"]),
    help="The engine that a device builds for itself; decided by the run's target when left out.",
)
@click.option("--expect", "expected", multiple=True, help="A preset's name: expected, not tested.")
@click.option(
    "--check",
    multiple=True,
    metavar="TARGET",
    help="Copy it there, verify, test and measure it, and write the figures in as tested: "
    "ssh://[user@]host[:port], or local. May be repeated.",
)
@click.option("--sign", is_flag=True, help="Sign it, as the OpenSSF's model signing does.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="The private key to --sign with (PEM); without one, keyless by Sigstore.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 600),
    default=1.0,
    show_default=True,
    help="Of each measurement.",
)
@click.option("--triton", type=click.Path(path_type=Path), help="Also write a Triton repository.")
@click.option(
    "--oci", type=click.Path(path_type=Path), help="Also write an OCI layout (ModelPack)."
)
@click.option(
    "--ort", type=click.Path(path_type=Path), help="Also write an ONNX Runtime model package."
)
@click.option("--unmet", is_flag=True, help="Package a run whose budgets do not hold, too.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@answer_options
def package(
    folder: Path, output: Path, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> NoReturn:
    """Write the edge bundle of the run folder RUN: model, self-test, program, proof.

    The same run gives the same bytes wherever it is packaged; --check adds a device's figures.
    """

    def work() -> int:
        from mpo.api.packing import package as pack
        from mpo.pipeline.bundle.views import check_folders, write_view
        from mpo.progress import Bars, prints_to_stderr
        from mpo.render.card import bundle_table

        views = {view: options.pop(view) for view in ("triton", "oci", "ort")}
        check_folders([place for place in views.values() if place])
        with prints_to_stderr(), Bars(quiet=quiet or as_json) as bars:
            made = pack(folder, output, progress=bars, **options)
        for view, place in views.items():
            if place:
                write_view(output, place, view)
        if as_json:
            click.echo(made.model_dump_json(indent=1))
        elif not quiet:
            facts = {"digest": made.digest, "sha256": made.sha256, "file": made.path}
            console().print(bundle_table(made.manifest, facts))
        return 0

    run(work, verbose=verbose, as_json=as_json)
