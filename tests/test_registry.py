"""Names lead to exporters and runners; a third party's is an entry point; nothing loads early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mpo.errors import UsageError
from mpo.registry import EXPORTERS, OWN, RUNNERS, Group, load, names

GROUPS: tuple[Group, ...] = (EXPORTERS, RUNNERS)


def install(folder: Path, name: str, lines: str, code: str = "") -> None:
    """Make an installed distribution: its metadata, and a module of its name with `code`."""
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(lines)
    (folder / f"{name}.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["onnx", "openvino", "tensorrt", "tensorrt-rtx"])
def test_every_name_of_ours_leads_to_something_callable(group: Group, name: str) -> None:
    assert name in names(group)
    assert callable(load(group, name))


def test_every_exporter_has_a_runner() -> None:
    assert set(OWN[EXPORTERS]) == set(OWN[RUNNERS])


def test_listing_names_imports_no_backend() -> None:
    code = (
        "import sys\nfrom mpo.registry import EXPORTERS, names\nnames(EXPORTERS)\n"
        "heavy = ('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt_rtx', 'mpo.exporters')\n"
        "sys.stdout.write(str([name for name in heavy if name in sys.modules]))\n"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout == "[]"


def test_another_package_s_exporter_is_an_entry_point(site: Path) -> None:
    lines = "[mpo.exporters]\nlitert = mpo_litert_plugin:export\n"
    install(site, "mpo_litert_plugin", lines, "def export(onnx, target, options):\n    return 7\n")
    assert names(EXPORTERS)[-1] == "litert"
    assert "mpo_litert_plugin" not in sys.modules
    assert load(EXPORTERS, "litert")(None, None, {}) == 7


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="no exporter 'tensort-rtx'") as refused:
        load(EXPORTERS, "tensort-rtx")
    assert "Did you mean tensorrt-rtx?" in refused.value.hint
    assert "openvino" in refused.value.hint


def test_a_name_of_ours_cannot_be_taken_over(site: Path) -> None:
    lines = "[mpo.runners]\nonnx = mpo_taker_plugin:Runner\n"
    install(site, "mpo_taker_plugin", lines, "class Runner: ...\n")
    assert load(RUNNERS, "onnx").__module__ == "mpo.exporters.backends"
    assert names(RUNNERS).count("onnx") == 1


def test_a_name_that_two_packages_offer_is_refused(site: Path) -> None:
    for name in ("mpo_one_plugin", "mpo_two_plugin"):
        install(site, name, f"[mpo.runners]\nncnn = {name}:Runner\n")
    with pytest.raises(UsageError, match="2 packages: mpo_one_plugin, mpo_two_plugin"):
        load(RUNNERS, "ncnn")


@pytest.mark.parametrize("code", ["import no_such_module_anywhere\n", "x = 1\n"])
def test_a_plugin_that_cannot_be_imported_is_named(site: Path, code: str) -> None:
    name = f"mpo_broken_plugin_{len(code)}"
    install(site, name, f"[mpo.exporters]\nbroken = {name}:export\n", code)
    with pytest.raises(UsageError, match=f"broken of {name} cannot be loaded"):
        load(EXPORTERS, "broken")
