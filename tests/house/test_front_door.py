"""The front door: light to open, and the wheel is what is tested."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mpo

HEAVY = ("torch", "onnx", "onnxruntime", "onnxsim", "scipy", "matplotlib", "transformers")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with this one's packages."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_importing_mpo_loads_nothing_heavy() -> None:
    found = run_python(f"import sys, mpo; print([n for n in {HEAVY} if n in sys.modules])")
    assert found.stdout.strip() == "[]", found.stdout + found.stderr


def test_help_is_shown_without_loading_torch() -> None:
    if importlib.util.find_spec("mpo.cli") is None:
        pytest.skip("mpo.cli is not there yet")
    code = (
        "import sys\n"
        "from mpo.cli import main\n"
        "sys.argv = ['mpo', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        f"    print('heavy:', [n for n in {HEAVY} if n in sys.modules], 'code:', end.code)\n"
    )
    for arguments in (["--help"], ["--version"], ["optimize", "--help"]):
        done = run_python(code, *arguments)
        assert done.stdout.splitlines()[-1] == "heavy: [] code: 0", done.stdout + done.stderr


def test_every_name_that_mpo_offers_is_there() -> None:
    for name in mpo.__all__:
        assert getattr(mpo, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mpo.nonsense


def test_the_tests_run_against_the_installed_wheel() -> None:
    wheel = os.environ.get("MPO_WHEEL_UNDER_TEST")
    if not wheel:
        pytest.skip("only `make test` installs the wheel apart")
    assert mpo.__file__ is not None
    assert Path(mpo.__file__).is_relative_to(wheel)


def test_the_wheel_holds_every_module(root: Path, modules: tuple[Path, ...]) -> None:
    wheel = os.environ.get("MPO_WHEEL_UNDER_TEST")
    if not wheel:
        pytest.skip("only `make test` installs the wheel apart")
    missing = []
    for path in modules:
        inside = path.relative_to(root)
        place = inside.relative_to("src") if inside.parts[0] == "src" else Path("mpo") / inside
        if not (Path(wheel) / place).is_file():
            missing.append(str(inside))
    assert not missing, missing


def test_the_command_mpo_leads_to_a_function(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    module, name = project["scripts"]["mpo"].split(":")
    if importlib.util.find_spec(module) is None:
        pytest.skip("mpo.cli is not there yet")
    assert callable(getattr(importlib.import_module(module), name))
