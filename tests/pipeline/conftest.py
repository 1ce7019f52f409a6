"""What tests of the bench share."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.pipeline import benchmodels


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Tiny ONNX files, and targets that answer from a script."""
    return benchmodels
