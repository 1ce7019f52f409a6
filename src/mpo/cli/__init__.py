"""The command line: parse, call, print, exit. No logic; torch is imported only when a command
runs."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from mpo import __version__
from mpo.cli.analyze import analyze
from mpo.cli.bench import bench
from mpo.cli.contract import contract
from mpo.cli.decompose import decompose
from mpo.cli.doctor import doctor
from mpo.cli.export import export
from mpo.cli.history import history
from mpo.cli.init import init
from mpo.cli.optimize import optimize
from mpo.cli.package import package
from mpo.cli.plan import plan
from mpo.cli.profile import profile
from mpo.cli.report import report
from mpo.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mpo")
def cli() -> None:
    """Give mpo a trained PyTorch model, its data and a budget: it returns a smaller model that is
    measured to fit, and the proof."""


for command in (
    init,
    optimize,
    plan,
    analyze,
    export,
    report,
    profile,
    doctor,
    bench,
    history,
    contract,
    decompose,
    package,
    verify,
):
    cli.add_command(command)


def main() -> NoReturn:
    """The console script `mpo`."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    cli(prog_name="mpo")
    sys.exit(0)
