"""`mpo doctor`: what is installed, what works, what is missing, what is known against it.

It must work where mpo does not: nothing heavy, and no backend, is imported in this process.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from mpo import __version__
from mpo.pipeline.doctor.packages import CORE, advisories, advisories_date, packages
from mpo.pipeline.doctor.trials import find_gpu, run_trials
from mpo.records import Doctor, Package, Place, Trial
from mpo.timing import Stopwatch


def examine(folder: Path | None = None) -> Doctor:
    """Look at this machine; takes seconds, opens no network connection, leaves nothing behind.

    Args:
        folder: whose room and rights count; the current one by default.
    """
    import psutil

    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="mpo-doctor-") as scratch:
        trials = run_trials(Path(scratch))
    found = packages()
    installed = {row.name.lower(): row.installed for row in found if row.installed}
    return Doctor(
        tool={"name": "mpo", "version": __version__},
        ok=core_works(found, trials),
        python=platform.python_version(),
        os=platform.platform(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        gpu=find_gpu(),
        place=look_at(folder or Path.cwd()),
        packages=found,
        trials=trials,
        advisories=advisories(installed),
        advisories_date=advisories_date(),
        seconds=watch.seconds,
    )


def core_works(found: tuple[Package, ...], trials: tuple[Trial, ...]) -> bool:
    """Whether every core package is there in a version that mpo takes, and every core trial
    passed."""
    whole = all(row.state == "ok" for row in found if row.part == CORE)
    return whole and all(trial.state == "works" for trial in trials if trial.core)


def look_at(folder: Path) -> Place:
    """Room and rights of a folder, by writing a file there."""
    reason = ""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mpo")
            file.flush()
    except OSError as error:
        reason = error.strerror or str(error)
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    return Place(folder=str(folder), writable=not reason, free_bytes=free, reason=reason)
