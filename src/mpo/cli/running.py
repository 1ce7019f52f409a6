"""How every command runs and ends: one error sentence with its hint, one exit code, no trace."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO

import click

from mpo.cli.stopping import Terminated, stoppable
from mpo.errors import MpoError
from mpo.files import full, out_of_space, place_of
from mpo.launching import command_again
from mpo.render.names import clean
from mpo.scratch import scratch
from mpo.stages import DamageWarning

INTERRUPTED, TERMINATED, READER_GONE = 130, 143, 141


def run(
    work: Callable[[], int], *, verbose: bool, as_json: bool, resumable: bool = False
) -> NoReturn:
    """Do a command's work and end the process with its exit code.

    Args:
        resumable: the same command again goes on where this one was interrupted.
    """
    with scratch(), stoppable(lambda: _stopped("stopped", resumable)), warnings.catch_warnings():
        told = warnings.showwarning
        warnings.simplefilter("always", DamageWarning)
        warnings.showwarning = lambda *given, **more: _warned(told, *given, **more)
        code = _ended(work, verbose=verbose, as_json=as_json, resumable=resumable)
    sys.exit(code if _flushed() else READER_GONE)


def _ended(work: Callable[[], int], *, verbose: bool, as_json: bool, resumable: bool) -> int:
    """The exit code of the work, told as it must be."""
    try:
        return work()
    except MpoError as error:
        return _told(error, verbose=verbose, as_json=as_json)
    except KeyboardInterrupt:
        _stopped("interrupted", resumable)
        return INTERRUPTED
    except Terminated:
        _stopped("terminated", resumable)
        return TERMINATED
    except BrokenPipeError as error:
        return _fault(error, verbose) if _flushed() else READER_GONE
    except Exception as error:  # noqa: BLE001 - the last resort: no trace on a user's screen
        if out_of_space(error):
            place = place_of(error, Path(tempfile.gettempdir()))
            return _told(full(place), verbose=verbose, as_json=as_json)
        return _fault(error, verbose)


def _told(error: MpoError, *, verbose: bool, as_json: bool) -> int:
    _trace(verbose)
    click.echo(f"error: {clean(error.message)}", err=True)
    if error.hint:
        click.echo(f"hint: {clean(error.hint)}", err=True)
    if as_json:
        told = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        click.echo(json.dumps({"schema": "mpo.error/1", **told}, indent=1))
    return error.exit_code


def _fault(error: Exception, verbose: bool) -> int:
    _trace(verbose)
    first = str(error).strip().split("\n")[0]
    click.echo(f"error: {type(error).__name__}: {clean(first)}", err=True)
    click.echo("hint: this is a fault in mpo; run with -v for the trace and report it", err=True)
    return 1


def _trace(verbose: bool) -> None:
    """The Python trace, when it was asked for. What files and devices say stays plain in it, and
    with a bar before it no line is a command to the CI server."""
    if verbose:
        for line in traceback.format_exc().splitlines():
            click.echo(f"| {clean(line)}", err=True)


def _stopped(how: str, resumable: bool) -> None:
    """Say that the work ended before its time, and the exact command that goes on."""
    command = clean(command_again(sys.argv[1:]))
    kept = "what is finished is kept; go on with" if resumable else "again with"
    click.echo(f"{how}; {kept}: {command}", err=True)


def _warned(
    otherwise: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """What a run folder's damage is told as; other warnings go their usual way."""
    if issubclass(category, DamageWarning):
        click.echo(f"warning: {clean(str(message))}", err=True)
    else:
        otherwise(message, category, filename, lineno, file, line)


def _flushed() -> bool:
    """Whether stdout still has a reader; without one, nothing more is written to it."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # no file at all, as in a test
        return True
    look = select.poll()
    look.register(number, select.POLLOUT)
    if any(events & select.POLLERR for _, events in look.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        return False
    return True
