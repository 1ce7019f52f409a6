"""`mpo init`: what it writes works once its places are filled in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from mpo.cli import cli
from mpo.recipe import Recipe, make_recipe, read_recipe
from tests.subjects import tiny


def init(*words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(cli, ["init", *words])
    return found.exit_code, found.stdout, found.stderr


def test_the_subject_works_once_its_places_are_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    assert init(str(project), "--model", "nets:build") == (
        0, f"{project / 'subject.py'}\n{project / 'mpo.toml'}\n", "",
    )  # fmt: skip
    (project / "nets.py").write_text(
        "from tests.subjects import tiny\n\n\ndef build():\n    return tiny.model()\n"
    )
    (project / "sets.py").write_text(
        "from torch.utils.data import TensorDataset\nfrom tests.subjects import tiny\n"
        "train_set, validation_set, test_set = "
        "(TensorDataset(*tiny.samples(k, 128)) for k in (1, 2, 3))\n"
    )
    save_file(tiny.model().state_dict(), project / "weights.safetensors")
    subject = project / "subject.py"
    subject.write_text(subject.read_text().replace("your_package.data", "sets"))
    monkeypatch.chdir(project)
    found = CliRunner().invoke(cli, ["analyze", "-c", "mpo.toml", "-q", "--json"])
    assert found.exit_code == 0, found.stderr
    assert '"1.3"' in found.stdout


def test_without_a_factory_the_error_names_the_place_to_fill_in(tmp_path: Path) -> None:
    assert init(str(tmp_path))[0] == 0
    found = CliRunner().invoke(cli, ["analyze", str(tmp_path / "subject.py"), "-q"])
    assert found.exit_code == 2
    assert "your_package" in found.stderr


def test_the_recipe_is_read_and_so_is_each_key_that_it_offers(tmp_path: Path) -> None:
    assert init(str(tmp_path))[0] == 0
    path = tmp_path / "mpo.toml"
    assert make_recipe(**read_recipe(path)).budget == ("50%",)
    offered = re.sub(r"(?m)^# (?=\w+ = )", "", path.read_text())
    assert len(tomllib.loads(offered)) > len(tomllib.loads(path.read_text()))
    path.write_text(offered)
    made = make_recipe(**read_recipe(path))
    defaults = {key: getattr(made, key) for key in ("batch", "epochs", "seed", "max_drop")}
    assert defaults == {key: Recipe.model_fields[key].default for key in defaults}


def test_nothing_that_is_there_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mpo.toml").write_text("mine")
    code, _, errors = init(str(tmp_path))
    assert code == 2
    assert "mpo.toml exists; nothing was written" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["mpo.toml"]
    assert (tmp_path / "mpo.toml").read_text() == "mine"


@pytest.mark.parametrize("text", ["nets", "nets:", "nets:build()", "a b:c", "nets:b\nimport os"])
def test_a_model_that_names_no_function_is_refused(text: str, tmp_path: Path) -> None:
    assert init(str(tmp_path / "new"), "--model", text)[0] == 2
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    code, _, errors = init("/proc/mpo-init")
    assert code == 2
    assert "Cannot write" in errors
