"""`mpo doctor` on this machine, and what it says of machines where something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from packaging.version import Version
from rich.console import Console

from mpo.cli import cli
from mpo.pipeline.doctor import trials
from mpo.pipeline.doctor.examining import core_works, examine, look_at
from mpo.pipeline.doctor.packages import TABLE, advisories, advisories_date, packages
from mpo.pipeline.doctor.trials import TINY_ONNX, run_trials
from mpo.records import Doctor, Package, Trial
from mpo.render.doctor import doctor as page
from mpo.schemas import load


def offline() -> tuple[str, ...]:
    """A command that runs another one with no network at all; empty where that is not allowed."""
    line = ("unshare", "--map-root-user", "--net")
    try:
        allowed = subprocess.run([*line, "true"], capture_output=True, check=False, timeout=10)
    except OSError:
        return ()
    return () if allowed.returncode else line


OFFLINE = offline()


@pytest.fixture(scope="module")
def examined() -> tuple[Doctor, float]:
    """The record, and the processor time that it took, in seconds."""
    before, record, after = os.times(), examine(), os.times()
    return record, sum(after[:4]) - sum(before[:4])


@pytest.fixture(scope="module")
def record(examined: tuple[Doctor, float]) -> Doctor:
    return examined[0]


def shown(record: Doctor, *, verbose: bool = False) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(page(record, verbose=verbose))
    console.file.close()
    return console.export_text()


def row(record: Doctor, backend: str) -> Trial:
    (found,) = [trial for trial in record.trials if trial.backend == backend]
    return found


def test_the_core_works_here_in_less_than_ten_seconds(examined: tuple[Doctor, float]) -> None:
    record, seconds = examined
    assert record.ok, [trial for trial in record.trials if trial.state != "works"]
    assert seconds < 10  # of work: what others do on this machine does not count
    assert record.seconds > 0
    for backend in ("torch", "onnx", "onnxruntime CPUExecutionProvider"):
        assert row(record, backend).state == "works"
        assert row(record, backend).told[0].isdigit()


def test_every_backend_that_is_installed_was_tried_and_no_other(record: Doctor) -> None:
    for backend in ("openvino", "tensorrt-rtx", "tensorrt"):
        trial = row(record, backend)
        assert trial.state in ("works", "builds", "missing"), trial.told
        assert (trial.state == "missing") == bool(trial.install)
    assert not {"torch", "openvino", "tensorrt_rtx"} <= set(sys.modules)


def test_the_record_is_valid_and_comes_back(record: Doctor) -> None:
    written = json.loads(record.model_dump_json())
    Draft202012Validator(load("doctor")).validate(written)
    assert Doctor.model_validate(written) == record
    assert written["schema"] == "mpo.doctor/1"


def test_the_command_prints_a_table_or_the_record(
    record: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpo.pipeline.doctor.examining.examine", lambda: record)
    told = CliRunner().invoke(cli, ["doctor"])
    assert told.exit_code == 0, told.output
    assert "The core works." in told.output
    told = CliRunner().invoke(cli, ["doctor", "--json"])
    assert json.loads(told.stdout)["ok"] is True
    broken = record.model_copy(update={"ok": False})
    monkeypatch.setattr("mpo.pipeline.doctor.examining.examine", lambda: broken)
    told = CliRunner().invoke(cli, ["doctor"])
    assert told.exit_code == 1
    assert "NOT WORKING" in told.output


def test_the_tiny_model_is_what_it_is_said_to_be() -> None:
    model = onnx.ModelProto.FromString(TINY_ONNX)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add", "Relu"]
    assert model.opset_import[0].version == 18


@pytest.mark.case(30)
@pytest.mark.case(32)
def test_a_backend_that_crashes_is_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(trials, "WORKER", script)
    found = {trial.backend: trial for trial in run_trials(tmp_path)}
    assert found["torch"].state == "fails"
    assert "SIGSEGV" in found["torch"].told
    assert found["torch"].core
    assert not core_works((), tuple(found.values()))


def test_a_backend_that_computes_something_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.ModelProto.FromString(TINY_ONNX)
    model.graph.node[1].op_type = "Sigmoid"
    monkeypatch.setattr(trials, "TINY_ONNX", model.SerializeToString())
    found = {trial.backend: trial.state for trial in run_trials(tmp_path)}
    assert found["onnxruntime CPUExecutionProvider"] == "fails"
    assert found["openvino"] in ("fails", "missing")


def test_it_works_where_a_core_package_is_not_installed() -> None:
    code = """if True:
        import importlib.util, sys
        class Without:
            def __init__(self, finder): self.finder = finder
            def find_spec(self, name, *rest):
                gone = name.split(".")[0] == "onnx"
                return None if gone else self.finder.find_spec(name, *rest)
            def __getattr__(self, name): return getattr(self.finder, name)
        sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
        assert importlib.util.find_spec("onnx") is None
        from mpo.pipeline.doctor.examining import examine
        record = examine()
        states = {trial.backend: trial.state for trial in record.trials}
        assert states["onnx"] == "missing", states
        assert states["torch"] == "works", states
        assert not record.ok
    """
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_an_mpo_that_is_not_whole_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpo.pipeline.doctor.examining", None)
    told = CliRunner().invoke(cli, ["doctor"])
    assert told.exit_code == 1
    assert "mpo is not whole" in told.output
    assert "hint: pip install" in told.output


def package(**fields: Any) -> Package:
    known = {"name": "torch", "part": "core", "wanted": ">=2.10", "state": "ok"}
    return Package.model_validate({**known, **fields})


def test_packages_are_judged_by_the_versions_that_mpo_takes() -> None:
    here = onnx.__version__
    found = packages(
        [
            f"onnx>={here}",
            "onnx>=999",
            "no-such-package-anywhere>=1",
            'no-such-package-anywhere>=1; extra == "thing"',
            'onnx>=999; extra == "dev"',
            'mpo-optimizer[hf]; extra == "all"',
            'never; python_version < "3"',
        ]
    )
    assert [(one.part, one.state) for one in found] == [
        ("core", "ok"),
        ("core", "old"),
        ("core", "missing"),
        ("thing", "missing"),
    ]
    assert found[1].install == "pip install 'onnx>=999'"
    assert found[2].install == "pip install 'no-such-package-anywhere>=1'"
    assert found[3].install == "pip install 'mpo-optimizer[thing]'"


def test_the_list_of_packages_is_that_of_mpo_s_own_metadata(record: Doctor) -> None:
    core = {one.name for one in record.packages if one.part == "core"}
    assert {"torch", "onnx", "onnxruntime", "numpy", "click"} <= core
    assert {"tensorrt-rtx", "hf"} <= {one.part for one in record.packages}
    assert not {"pytest", "ruff"} & {one.name for one in record.packages}


@pytest.mark.parametrize(
    ("name", "version", "ids"),
    [
        ("torch", "2.5.1+cpu", {"CVE-2025-32434", "CVE-2026-24747"}),
        ("torch", "2.9.0", {"CVE-2026-24747"}),
        ("torch", "2.10.0", set()),
        ("onnx", "1.20.1", {"CVE-2026-27489", "CVE-2026-34446", "CVE-2026-28500"}),
        ("onnx", "1.21.0", set()),
        ("jinja2", "3.1.5", {"CVE-2025-27516"}),
        ("transformers", "5.0.0", {"CVE-2026-4372"}),
        ("transformers", "4.55.0", {"CVE-2026-1839"}),
        ("transformers", "5.3.0", set()),
    ],
)
def test_an_installed_version_meets_its_advisories(name: str, version: str, ids: set[str]) -> None:
    found = advisories({name: version})
    assert ids <= {one for hit in found for one in hit.ids}
    assert bool(found) == bool(ids)
    assert all(Version(hit.fixed_in) > Version(version) for hit in found)


def test_every_advisory_has_its_number_source_and_date() -> None:
    table = json.loads(TABLE.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", advisories_date())
    for entry in table["advisories"]:
        assert all(re.match(r"(CVE|GHSA)-", one) for one in entry["ids"]), entry
        assert entry["source"].startswith("https://")
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", entry["published"])
        assert entry["published"] <= table["date"]


def test_what_is_wrong_is_told_with_the_line_that_mends_it(record: Doctor) -> None:
    old = package(installed="2.5.1", state="old", install="pip install 'torch>=2.10'")
    wrong = record.model_copy(
        update={
            "ok": False,
            "packages": (old, *record.packages[1:]),
            "advisories": advisories({"torch": "2.5.1"}),
            "place": look_at(Path("/proc")),
        }
    )
    text = shown(wrong)
    assert "NOT WORKING" in text
    assert "pip install 'torch>=2.10'" in text
    assert "CVE-2025-32434" in text
    assert "Nothing can be written there" in text


def test_names_on_the_terminal_cannot_command_it(record: Doctor) -> None:
    bad = Trial(backend="\x1b[2Jtorch", core=True, state="fails", told="[bold]x\x07")
    text = shown(record.model_copy(update={"trials": (bad,)}))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]x" in text


@pytest.mark.parametrize(("state", "ok"), [("ok", True), ("old", False), ("missing", False)])
def test_the_core_needs_its_packages(state: str, ok: bool) -> None:
    assert core_works((package(state=state),), ()) is ok
    assert core_works((package(state=state, part="hf"),), ())


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert look_at(tmp_path).writable
    gone = look_at(tmp_path / "none")
    assert (gone.writable, gone.free_bytes) == (False, 0)
    assert gone.reason
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not OFFLINE, reason="this system lets nobody make a namespace of no network")
def test_it_works_without_a_network() -> None:
    code = "from mpo.pipeline.doctor.examining import examine\nassert examine().ok\n"
    subprocess.run([*OFFLINE, sys.executable, "-P", "-c", code], check=True, timeout=120)
