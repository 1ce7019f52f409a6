"""`mpo profile`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from mpo.cli.options import answer_options
from mpo.cli.running import run
from mpo.cli.showing import console


@click.command()
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="local (default), local:cuda:0, ssh://[user@]host[:port], profile:FILE, or a preset's "
    "name; may be repeated.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the profile here.")
@answer_options
def profile(
    targets: tuple[str, ...], output: Path | None, quiet: bool, verbose: bool, as_json: bool
) -> NoReturn:
    """Describe a device and measure it: what it is, what it can do, and how noisy it is.

    Takes less than a minute a device. Files and shipped presets are only shown.
    """

    def work() -> int:
        from mpo.files import writable, write_atomic
        from mpo.pipeline.profiling import check_output, profile_targets, to_json
        from mpo.progress import Bars
        from mpo.render.device import device_table

        wanted = targets or ("local",)
        if output is not None:
            check_output(output, wanted)
        with Bars(quiet=quiet or as_json) as bars:
            profiles = profile_targets(wanted, bars)
        if output is not None:
            with writable(output):
                write_atomic(output, to_json(profiles) + "\n")
        if as_json:
            click.echo(to_json(profiles))
        elif not quiet:
            console().print(device_table(profiles))
        return 0

    run(work, verbose=verbose, as_json=as_json)
