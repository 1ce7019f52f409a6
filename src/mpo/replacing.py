"""What mpo writes into a run folder, and how a new run takes the place of an older one there.

The new run grows in a hidden folder inside. When it is whole, a list of what goes and what comes is
written; from then on the change is finished, by this process or by the next one that opens the
folder, and whatever else lies there is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from mpo import files
from mpo.files import remove, write_atomic

STAGES = "stages"
JOURNAL = "journal.jsonl"
RECIPE = "recipe.toml"
MARKER = ".mpo-run"  # only a folder that holds it is ever changed
RESULTS = (
    "bench.json",
    "contract.json",
    "device.json",
    "model.onnx",
    "model.onnx.data",
    "model.safetensors",
    "original.onnx",
    "original.onnx.data",
    "plan.json",
    "report.html",
    "report.json",
    "report.md",
    "similarity.npz",
    "witnesses.npz",
)
FORMATS = "model.*"  # the result in whatever format a plugin makes

BEGUN = ".overwriting"  # the run here was begun by --overwrite, and has not come to its end
OWN = (*RESULTS, RECIPE, JOURNAL, STAGES, MARKER, BEGUN)
NEW = ".new"  # inside the folder of the older run
READY = ".ready"  # inside NEW: what goes and what comes


def swap(new: Path, home: Path) -> None:
    """Put a whole new run into the place of the one in `home`."""
    comes = sorted(entry.name for entry in new.iterdir() if entry.name != READY)
    formats = {path.name for path in home.glob(FORMATS)}
    goes = sorted(({*OWN} | formats) - {*comes})
    write_atomic(new / READY, json.dumps({"goes": goes, "comes": comes}))
    finish_swap(home)


def finish_swap(home: Path) -> bool:
    """Go on with a change that was decided; False, and nothing to do, when there is none."""
    new = home / NEW
    try:
        listed = json.loads((new / READY).read_text())
    except (OSError, ValueError):
        return False
    for name in listed["goes"]:
        remove(home / name)
    for name in listed["comes"]:
        if (new / name).exists():
            remove(home / name)
            files.disk.rename(new / name, home / name)
    files.disk.sync(home)
    remove(new)
    return True
