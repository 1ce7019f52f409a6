"""`mpo profile`: measured, stored and shipped profiles, and how the command ends."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from mpo.cli import cli
from mpo.errors import MpoError, UsageError
from mpo.pipeline import profiling
from mpo.profiles.device import describe, fingerprint
from mpo.profiles.limits import measure_limits
from mpo.profiles.local import LocalTarget
from mpo.profiles.noise import measure_noise
from mpo.profiles.saved import read_profile
from mpo.schemas import load


def mpo(*arguments: str) -> Result:
    """The command line with these arguments."""
    return CliRunner().invoke(cli, ["profile", *arguments])


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurements in fewer and shorter processes."""
    quick = partial(measure_limits, processes=1, seconds=0.02)
    monkeypatch.setattr(profiling, "measure_limits", quick)
    pairs = partial(measure_noise, processes=6, seconds=0.6, solo=2, solo_seconds=0.1)
    monkeypatch.setattr(profiling, "measure_noise", pairs)


def test_this_machine_is_profiled_written_and_shown_again(tmp_path: Path, short: None) -> None:
    path = tmp_path / "here.json"
    done = mpo("--json", "-o", str(path))
    assert done.exit_code == 0, done.output
    written = json.loads(path.read_text())
    assert json.loads(done.stdout) == written
    Draft202012Validator(load("device")).validate(written)
    assert (written["schema"], written["measured"]) == ("mpo.device/1", True)
    assert written["limits"]["threads"] == written["noise"]["threads"]
    profile = read_profile(path)
    assert profile.noise is not None
    assert profile.noise.too_noisy == any(w.code == "too-noisy" for w in profile.warnings)
    assert profile.fingerprint == fingerprint(describe(LocalTarget()))
    again = mpo("--target", f"profile:{path}")
    assert again.exit_code == 0
    assert profile.fingerprint[:16] in again.output


def test_presets_and_files_are_shown_side_by_side_without_measuring() -> None:
    done = mpo("--target", "raspberry-pi-5-8gb", "--target", "profile:intel-n100")
    assert done.exit_code == 0
    assert done.output.count("described, not measured") == 2
    listed = json.loads(mpo("--target", "intel-n100", "--target", "imx8m-plus", "--json").stdout)
    assert [record["target"] for record in listed] == ["intel-n100", "imx8m-plus"]


def test_a_preset_is_written_like_any_profile(tmp_path: Path) -> None:
    path = tmp_path / "pi.json"
    assert mpo("--target", "raspberry-pi-5-8gb", "-o", str(path), "-q").output == ""
    profile = read_profile(path)
    assert not profile.measured
    Draft202012Validator(load("device")).validate(json.loads(path.read_text()))


def test_an_expired_profile_is_shown_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    mpo("--target", "intel-n100", "-o", str(path))
    old = json.loads(path.read_text()) | {"measured": True, "created": "2020-01-01T00:00:00Z"}
    path.write_text(json.dumps(old))
    done = mpo("--target", f"profile:{path}")
    assert done.exit_code == 0
    assert "days old; it expired after 90" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("raspbery", "Did you mean"),
        ("profile:none.json", "Cannot read none.json"),
        ("telnet://host", "telnet"),
        ("local:cuda:x", "local:cuda:x"),
        ("", "no preset ''"),
    ],
)
def test_a_wrong_target_ends_with_two(target: str, words: str) -> None:
    done = mpo("--target", target)
    assert (done.exit_code, words in done.output) == (2, True), done.output


def test_a_wrong_second_target_ends_before_the_first_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiling, "measure_limits", pytest.fail)
    for wrong in ("raspbery", "telnet://host", "profile:none.json"):
        assert mpo("--target", "local", "--target", wrong).exit_code == 2


@pytest.mark.parametrize("place", ["none/x.json", "."])
def test_an_output_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(profiling, "measure_limits", pytest.fail)
    done = mpo("-o", str(tmp_path / place))
    assert (done.exit_code, "Cannot write to" in done.output) == (2, True), done.output


def test_one_file_does_not_hold_two_devices(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 targets are given"):
        profiling.check_output(tmp_path / "x.json", ["local", "intel-n100"])


def test_a_device_without_its_runtime_ends_with_two_and_the_command_that_helps() -> None:
    if "CUDAExecutionProvider" in describe(LocalTarget()).providers:
        pytest.skip("this onnxruntime has CUDA")
    done = mpo("--target", "local:cuda:0")
    assert done.exit_code == 2
    assert "pip install onnxruntime-gpu" in done.output


def test_a_measurement_that_fails_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise MpoError("The process that measured the device's limits was ended by SIGKILL.")

    monkeypatch.setattr(profiling, "measure_limits", fail)
    done = mpo()
    assert (done.exit_code, "SIGKILL" in done.output) == (1, True)
