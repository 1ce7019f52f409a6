"""Whether there is room for a run before it starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mpo.errors import UsageError
from mpo.files import free_bytes
from mpo.pipeline.run.context import Context

# A run surely writes the original's file twice (the stage, and the result at the top) and what is
# left of the model as often; the scratch folder holds at least one model that is measured.
COPIES, SCRATCH_COPIES = 3, 1
BESIDE = 1 << 20  # records, reports, the journal


def require_room(context: Context) -> None:
    """Refuse a run that would surely fill the disk.

    Raises:
        UsageError: less is free than the least that the run needs, beside what lies there already.
    """
    size = weight_bytes(context)
    run = context.folder.path
    held = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    needs = {run: max(COPIES * size + BESIDE - held, 0)}
    needs[Path(tempfile.gettempdir())] = SCRATCH_COPIES * size + BESIDE
    for place, needed in needs.items():
        free = free_bytes(place)
        if free < needed:
            raise UsageError(
                f"The run needs at least {needed} bytes in {place}, where {free} are free.",
                hint="Free space there, or choose another place: -o FOLDER, or TMPDIR=FOLDER for "
                "temporary files.",
            )


def weight_bytes(context: Context) -> int:
    """Bytes of the original's parameters and buffers."""
    held = (*context.original.parameters(), *context.original.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
