"""Open a bundle here: the device's own reader, its refusals as mpo's errors, the manifest as a
record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mpo.bundle import mpo_edge
from mpo.errors import MpoError, RefusedError, UsageError
from mpo.records import Bundle

_ERRORS: dict[int, type[MpoError]] = {mpo_edge.USAGE: UsageError, mpo_edge.REFUSED: RefusedError}


@dataclass(frozen=True)
class OpenBundle:
    """A bundle whose structure and manifest are checked; each member is checked as it is read.

    Attributes:
        manifest: bundle.json.
        raw: the device's view of the same bundle.
    """

    manifest: Bundle
    raw: mpo_edge.Opened

    @property
    def digest(self) -> str:
        """The sha256 of bundle.json, which names the bundle; signatures are of it."""
        return self.raw.digest

    def chunks(self, name: str) -> Iterator[bytes]:
        """A member's bytes, piece by piece; the last comes only when all had the right sha256.

        Raises:
            RefusedError: other bytes than the manifest says.
        """
        with told():
            yield from self.raw.chunks(name)

    def read(self, name: str) -> bytes:
        """A member's bytes at once; errors as `chunks` has them."""
        with told():
            return self.raw.read(name)

    def manifest_bytes(self) -> bytes:
        """bundle.json as it stands in the file."""
        with told():
            return b"".join(self.raw.chunks(mpo_edge.MANIFEST, known=False))

    def signature(self) -> bytes | None:
        """bundle.sig, unchecked; None when there is none."""
        with told():
            return self.raw.signature()

    def unpack_model(self, folder: Path) -> Path:
        """Write the model, and its weights beside it, into a folder; nothing else.

        Raises:
            RefusedError: other bytes than the manifest says.
        """
        model = self.manifest.model
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*model.weights, model.path):  # the model last: it is whole when it is there
            with (folder / Path(name).name).open("wb") as file:
                for part in self.chunks(name):
                    file.write(part)
        return folder / Path(model.path).name

    def verify(self) -> None:
        """Read every member.

        Raises:
            RefusedError: one has other bytes than the manifest says.
        """
        with told():
            self.raw.verify()


def is_bundle(path: Path) -> bool:
    """Whether a path is named as a bundle is."""
    return path.suffix == ".mpo" and not path.is_dir()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what the device's program raises into mpo's errors, exit codes kept."""
    try:
        yield
    except mpo_edge.EdgeError as error:
        kind = _ERRORS.get(error.code, MpoError)
        raise kind(error.message, hint=error.hint) from error


@contextlib.contextmanager
def open_bundle(path: Path) -> Iterator[OpenBundle]:
    """A bundle: a .mpo file.

    Raises:
        UsageError: nothing there that can be read.
        RefusedError: it is not as it must be; the message says where.
    """
    with told():
        raw = mpo_edge.Opened(str(path))
    with raw:
        try:
            manifest = Bundle.model_validate(raw.manifest)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RefusedError(
                f"The manifest's {where or 'content'} is not as it must be: {first['msg']}",
                hint="Do not use it: copy it again from where it was made.",
            ) from error
        yield OpenBundle(manifest, raw)
