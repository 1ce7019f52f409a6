"""Output folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mpo import files
from mpo.errors import UsageError
from mpo.files import writable


@contextlib.contextmanager
def new_folder(path: Path, marker: str, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end, or is gone when the block raises.

    Args:
        marker: name of a file that the block writes; only a folder that holds it is replaced.
        overwrite: replace such a folder; the old one stays until the new one is whole.

    Raises:
        UsageError: something else is there, or the place cannot be written.
    """
    with writable(path):
        require_free(path, marker, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        with writable(path):
            _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_free(path: Path, marker: str, *, overwrite: bool = False) -> None:
    """Refuse a place where `new_folder` would not put its folder.

    Raises:
        UsageError: as said.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder.", hint="Choose another folder with -o.")
    held = path.is_dir() and any(path.iterdir())
    ours = held and (path / marker).is_file()
    if held and not (ours and overwrite):
        raise UsageError(
            f"The output folder {path} exists and is not empty.",
            hint="Choose another folder with -o" + (", or give --overwrite." if ours else "."),
        )


def _swap(temporary: Path, path: Path) -> None:
    """Put a filled folder into the place of an older one."""
    for entry in (*temporary.rglob("*"), temporary):
        files.disk.sync(entry)
    old = temporary.with_name(f"{temporary.name}.old")
    if path.exists():
        files.disk.rename(path, old)
    files.disk.rename(temporary, path)
    files.disk.sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def slug(subject: str) -> str:
    """A folder name for a subject: the parent for NAME/subject.py, else the name itself."""
    if subject.startswith("timm:"):  # its name may have a dot: the weights' own name
        return re.sub(r"[^\w.-]+", "-", subject)
    path = Path(subject.removeprefix("hf:"))
    stem = path.parent.name if path.stem in ("subject", "model") and path.parent.name else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model"
