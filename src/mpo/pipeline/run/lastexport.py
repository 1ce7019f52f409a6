"""The float32 file that others are made from: exported once, however many precisions and judges ask
for it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from torch import nn

from mpo.exporters.onnx import OnnxExport
from mpo.pipeline.run.fingerprints import fingerprint_model


class LastExport:
    """Keeps the float32 file of the model that was last wanted in another precision, until another
    model is, or this object goes.

    Tracing is by far the longest part of making a file. A run asks for the same model's several
    times in a row: for each precision, for the guard and the contract, for the result.
    """

    def __init__(self) -> None:
        self._key = ""
        self._made: OnnxExport | None = None
        self._delete: Callable[[], object] = lambda: None

    def of(self, model: nn.Module, export: Callable[[Path], OnnxExport]) -> OnnxExport:
        """The export of a model, kept when it is the last one's by structure and weights.

        Args:
            export: writes the file to a path.
        """
        key = fingerprint_model(model)
        if self._made is None or key != self._key:
            self.drop()
            folder = tempfile.mkdtemp(prefix="mpo-export-")
            self._delete = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._made, self._key = export(Path(folder) / "model.onnx"), key
        return self._made

    def drop(self) -> None:
        """Delete the file: it may be large, and lie in memory."""
        self._delete()
        self._made = None
