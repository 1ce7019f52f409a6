"""From a finished run to a bundle, and onto a device."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import mpo
from mpo.api.packing import package
from mpo.bundle import mpo_edge
from mpo.bundle.reader import open_bundle
from mpo.cli import cli
from mpo.errors import InfeasibleError, RefusedError, UsageError
from mpo.files import sha256
from mpo.optimizer.files.loading import load_subject
from mpo.records import Bundle, Report

if TYPE_CHECKING:
    from tests.profiles.sshd import Server


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A run of the tiny subject, with a licence beside it, whose budget the original holds already:
    what there is to package does not depend on what was removed."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copy(root / "tests" / "subjects" / "tiny.py", folder / "tiny.py")
    (folder / "LICENSE").write_text("Do as you like.\n")
    run = folder / "runs" / "tiny"
    run.parent.mkdir()
    mpo.optimize(folder / "tiny.py", "params=1M", output=run, threads=1, effort="quick")
    return run


@pytest.fixture(scope="module")
def bundle(finished: Path) -> Path:
    """Its bundle."""
    path = finished.parent / "tiny.mpo"
    package(finished, path, license="MIT", expected=("raspberry-pi-5-8gb",))
    return path


def told(path: Path) -> Bundle:
    """The manifest of a bundle that is whole."""
    with open_bundle(path) as found:
        found.verify()
        return found.manifest


def edge(*arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of the program in a process without mpo."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, env=environment,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def test_the_manifest_says_what_the_report_says(finished: Path, bundle: Path) -> None:
    manifest = told(bundle)
    report = Report.model_validate_json((finished / "report.json").read_text())
    assert manifest.name == "tiny"
    assert manifest.license == "MIT"
    assert manifest.model.params == report.optimized.params
    metric = manifest.selftest.metric
    assert metric is not None
    assert (metric.value, metric.samples) == (report.optimized.quality.value, 512)
    assert manifest.lineage.original == sha256(finished / "original.onnx")
    assert manifest.runtime.session.threads == report.environment.threads
    assert manifest.runtime.session.mmap_threshold_bytes == 131072
    assert manifest.engine is None


def test_tested_and_expected_targets_are_different_words(bundle: Path) -> None:
    tested, expected = told(bundle).targets
    assert (tested.name, tested.status) == ("local", "tested")
    assert tested.evidence == "report.json#/optimized"
    assert tested.latency_p50_ms is not None
    assert (expected.name, expected.status) == ("raspberry-pi-5-8gb", "expected")
    assert expected.latency_p50_ms is None


def test_the_proof_lies_in_the_bundle(bundle: Path) -> None:
    with open_bundle(bundle) as found:
        report = Report.model_validate_json(found.read("report.json"))
        assert report.met
        assert found.read("LICENSE") == b"Do as you like.\n"
        card = found.read("MODEL_CARD.md").decode()
        assert "raspberry" in card
        assert "tested" in card
        provenance = json.loads(found.read("provenance.intoto.json"))
        model = found.manifest.files["model/model.onnx"].sha256
        assert provenance["subject"][0]["digest"]["sha256"] == model
        assert found.read("runtime/mpo_edge.py") == Path(mpo_edge.__file__).read_bytes()


def test_nothing_in_the_bundle_names_a_folder_of_this_machine(
    bundle: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-of-a-secret")
    package(finished, bundle.with_name("again.mpo"), license="MIT")
    raw = bundle.with_name("again.mpo").read_bytes()
    for text in (str(finished.parent), str(Path.home()), "canary-of-a-secret"):
        assert text.encode() not in raw
    assert b"tiny.py" in raw


def test_the_bundle_is_made_again_byte_by_byte(finished: Path, bundle: Path) -> None:
    again = bundle.with_name("again.mpo")
    package(finished, again, license="MIT", expected=("raspberry-pi-5-8gb",), overwrite=True)
    assert sha256(again) == sha256(bundle)


def test_the_time_of_making_is_only_in_it_when_it_is_given(
    finished: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(bundle).created is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    package(finished, bundle.with_name("dated.mpo"))
    assert told(bundle.with_name("dated.mpo")).created == "2023-11-14T22:13:20Z"


def test_its_accuracy_on_the_test_split_is_the_report_s(
    finished: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPO_EDGE_HOME", str(tmp_path))
    right = seen = 0
    for place, batch in enumerate(load_subject(str(finished.parents[1] / "tiny.py")).splits().test):
        np.save(tmp_path / "x.npy", batch.args[0].numpy())
        if place > 1:
            break
        output = tmp_path / f"{place}.npz"
        code, answer = edge(bundle, "run", "--input", tmp_path / "x.npy", "--output", output)
        assert code == 0, answer
        with np.load(output) as found:
            (name,) = found.files
            right += int((found[name].argmax(1) == np.asarray(batch.targets)).sum())
        seen += batch.size
    model = mpo.load(finished)
    wanted = sum(
        int((model(batch.args[0]).argmax(1) == batch.targets).sum())
        for batch in list(load_subject(str(finished.parents[1] / "tiny.py")).splits().test)[:2]
    )
    assert (right, seen) == (wanted, 128)


def test_a_device_over_ssh_checks_it_and_its_figures_are_tested(
    finished: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPO_SSH_CONFIG", str(server.config))
    monkeypatch.setenv("MPO_REMOTE_PYTHON", sys.executable)
    path = tmp_path / "tiny.mpo"
    package(finished, path, check=(server.name,), seconds=0.05)
    manifest = told(path)
    first, second = manifest.targets
    assert (first.name, second.name, second.status) == ("local", "device-1", "tested")
    assert second.evidence == "tested/device-1.json#/bench"
    with open_bundle(path) as found:
        evidence = json.loads(found.read("tested/device-1.json"))
        assert evidence["bench"]["latency_p50_ms"] == second.latency_p50_ms
        assert evidence["selftest"]["ok"]
        assert server.name.encode() not in path.read_bytes()
    assert server.left() == []


def test_a_device_where_it_fails_leaves_no_bundle(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = command(
        finished, "-o", tmp_path / "x.mpo", "--check", "local", "--seconds", "0.05",
        "--engine", "none", "--limitation", "x" * 3000,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    with pytest.raises(UsageError, match="no target"):
        package(finished, tmp_path / "y.mpo", check=("nowhere",))
    assert not (tmp_path / "y.mpo").exists()


def command(*arguments: object) -> Result:
    """`mpo package` with these arguments."""
    return CliRunner().invoke(cli, ["package", *map(str, arguments)])


def test_the_commands_package_and_verify(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.mpo"
    result = command(finished, "-o", path, "--json", "--version", "2.1")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["manifest"]["version"] == "2.1"
    shown = CliRunner().invoke(cli, ["verify", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "whole" in shown.output
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    assert CliRunner().invoke(cli, ["verify", str(path)]).exit_code == 8
    assert CliRunner().invoke(cli, ["verify", str(tmp_path / "none.mpo")]).exit_code == 2


def key_pair(folder: Path, name: str) -> Path:
    """The public key of a pair that the openssl of this machine made as docs/bundle.md says."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    make = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    for line in (make, ["ec", "-in", str(private), "-pubout", "-out", str(public)]):
        subprocess.run(["openssl", *line], check=True, capture_output=True, timeout=60)
    return public


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
def test_what_the_command_signs_is_taken_with_the_right_key_only(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    monkeypatch.setenv("MPO_EDGE_HOME", str(tmp_path / "home"))
    ours, other = key_pair(tmp_path, "ours"), key_pair(tmp_path, "other")
    path = tmp_path / "signed.mpo"
    result = command(finished, "-o", path, "--sign", "--key", ours.with_suffix(".pem"), "-q")
    assert result.exit_code == 0, result.output
    with open_bundle(path) as found:
        for name in ("mpo_edge.py", "mpo_signature.py"):
            (tmp_path / name).write_bytes(found.read(f"runtime/{name}"))
    for key, wanted in ((ours, 0), (other, 8)):
        asked = ["verify", str(path), "--key", str(key)]
        own = CliRunner().invoke(cli, [*asked, "--state", str(tmp_path / "seen.json")])
        assert own.exit_code == wanted, own.output
        for line in ([tmp_path / "mpo_edge.py", *asked], [path, "verify", "--key", key]):
            code, told = edge(*line)
            assert code == wanted, told
            assert ("error" in told) == bool(wanted)


def test_a_bundle_is_not_overwritten_unless_it_is_said(bundle: Path, finished: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        package(finished, bundle)


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({"name": "a/b"}, "no name"),
        ({"version": "1 0"}, "no version"),
        ({"expected": ("no-such-preset",)}, "no preset"),
        ({"license_file": Path("nothing")}, "no licence file"),
    ],
)
def test_a_wish_is_refused_that_no_bundle_can_have(
    wish: dict[str, Any], text: str, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=text):
        package(finished, tmp_path / "x.mpo", **wish)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"report\.json"):
        package(tmp_path, tmp_path / "x.mpo")
    with pytest.raises(UsageError, match="Cannot write"):
        package(tmp_path, tmp_path / "none" / "x.mpo")


def test_a_file_that_was_changed_since_the_run_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, finished.parent / "changed")
    raw = bytearray((copy / "model.onnx").read_bytes())
    raw[-20] ^= 1
    (copy / "model.onnx").write_bytes(bytes(raw))
    with pytest.raises(RefusedError, match="not the file"):
        package(copy, tmp_path / "x.mpo")


def test_a_run_that_missed_its_budget_is_packaged_only_when_it_is_said(
    finished: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished, finished.parent / "missed")
    report = json.loads((copy / "report.json").read_text())
    report.update(met=False, status="below-floor")
    (copy / "report.json").write_text(json.dumps(report))
    with pytest.raises(InfeasibleError, match="below-floor"):
        package(copy, tmp_path / "x.mpo")
    package(copy, tmp_path / "x.mpo", unmet=True)
    assert "below-floor" in told(tmp_path / "x.mpo").limitations[0]


def test_an_engine_s_recipe_has_the_ranges_of_the_inputs(finished: Path, tmp_path: Path) -> None:
    package(finished, tmp_path / "x.mpo", engine="tensorrt")
    recipe = told(tmp_path / "x.mpo").engine
    assert recipe is not None
    (shapes,) = recipe.shapes.values()
    assert (shapes.min, shapes.opt, shapes.max) == ((1, 8), (1, 8), (32, 8))
    assert not [name for name in told(tmp_path / "x.mpo").files if "engine" in name]
