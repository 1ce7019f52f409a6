"""How every command runs and ends: one error sentence with its hint, one exit code, no trace."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import click

from mpo.errors import MpoError
from mpo.render.names import clean

INTERRUPTED, TERMINATED = 130, 143


def run(work: Callable[[], int], *, verbose: bool, as_json: bool) -> NoReturn:
    """Do a command's work and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = work()
    except MpoError as error:
        _trace(verbose)
        click.echo(f"error: {clean(error.message)}", err=True)
        if error.hint:
            click.echo(f"hint: {clean(error.hint)}", err=True)
        if as_json:
            told = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            click.echo(json.dumps({"schema": "mpo.error/1", **told}, indent=1))
        code = error.exit_code
    except KeyboardInterrupt:
        click.echo("interrupted; finished stages are kept: run the same command again", err=True)
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: no trace on a user's screen
        _trace(verbose)
        first = str(error).strip().split("\n")[0]
        click.echo(f"error: {type(error).__name__}: {clean(first)}", err=True)
        click.echo(
            "hint: this is a fault in mpo; run with -v for the trace and report it", err=True
        )
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def _trace(verbose: bool) -> None:
    """The Python trace, when it was asked for. What files and devices say stays plain in it, and
    with a bar before it no line is a command to the CI server."""
    if verbose:
        for line in traceback.format_exc().splitlines():
            click.echo(f"| {clean(line)}", err=True)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    click.echo("terminated; finished stages are kept: run the same command again", err=True)
    sys.exit(TERMINATED)
