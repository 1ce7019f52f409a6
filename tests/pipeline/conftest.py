"""What tests of the bench share: the module beside this file, which no import reaches."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """benchmodels.py: tiny ONNX files, and targets that answer from a script."""
    path = Path(__file__).with_name("benchmodels.py")
    spec = importlib.util.spec_from_file_location("mpo_test_benchmodels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
