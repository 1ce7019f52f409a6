"""Bad input: one clear sentence, the right exit code, no trace, nothing left behind."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from mpo.cli import cli

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"
HEAD = "import torch, mpo\nfrom torch import nn\n"
GOOD_DATA = """
def data():
    rows = [(torch.randn(8, 8), torch.arange(8) % 3) for _ in range(4)]
    return mpo.Data(train=rows, validation=rows, test=rows)
"""
BLOCKS = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(8, 8)
    def forward(self, x):
        return x + self.line(x).relu()
def model():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), Block(), nn.Linear(8, 3))
"""


def run(tmp_path: Path, subject: str | Path, *options: str, budget: str = "params=60%") -> Result:
    if isinstance(subject, str) and "\n" in subject:
        path = tmp_path / "case.py"
        path.write_text(HEAD + subject)
        subject = path
    given = [
        "optimize",
        str(subject),
        "-o",
        str(tmp_path / "run"),
        "--threads",
        "1",
        "--effort",
        "quick",
        *options,
    ]
    return CliRunner().invoke(cli, [*given, *(("-b", budget) if budget else ())])


def refused(result: Result, code: int, said: str, hint: str = "hint: ") -> None:
    assert result.exit_code == code, result.output
    assert said in result.output
    assert hint in result.output
    assert "Traceback" not in result.output
    assert result.output.count("error: ") == 1


@pytest.mark.case(61)
def test_unknown_unit(tmp_path: Path) -> None:
    refused(run(tmp_path, TINY, budget="5XB"), 2, "unknown unit 'XB'")
    assert not (tmp_path / "run").exists()


@pytest.mark.case(61)
def test_budget_without_unit(tmp_path: Path) -> None:
    refused(run(tmp_path, TINY, budget="5"), 2, "has no unit")


def test_no_budget(tmp_path: Path) -> None:
    refused(run(tmp_path, TINY, budget=""), 2, "No budget is given")


def test_missing_file(tmp_path: Path) -> None:
    refused(run(tmp_path, tmp_path / "none.py"), 2, "There is no file")


def test_subject_without_model(tmp_path: Path) -> None:
    refused(run(tmp_path, GOOD_DATA), 2, "defines no model()")


def test_model_that_raises_when_built(tmp_path: Path) -> None:
    subject = "def model():\n    raise RuntimeError('no checkpoint')\n" + GOOD_DATA
    refused(run(tmp_path, subject), 2, "no checkpoint")


def test_model_that_raises_when_run(tmp_path: Path) -> None:
    subject = "def model():\n    return nn.Linear(5, 3)\n" + GOOD_DATA
    refused(run(tmp_path, subject), 2, "The model raised RuntimeError")


def test_pickle_weights(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    result = run(tmp_path, BLOCKS + GOOD_DATA, "--weights", str(tmp_path / "whole.pt"))
    refused(result, 8, "pickle")


@pytest.mark.case(60)
def test_empty_data(tmp_path: Path) -> None:
    subject = BLOCKS + "def data():\n    return mpo.Data(train=[], validation=[], test=[])\n"
    refused(run(tmp_path, subject), 2, "split is empty")


@pytest.mark.case(60)
def test_one_sample_of_calibration(tmp_path: Path) -> None:
    refused(run(tmp_path, BLOCKS + GOOD_DATA, "--calibration", "1"), 2, "calibration")


def test_labels_out_of_range(tmp_path: Path) -> None:
    refused(run(tmp_path, BLOCKS + GOOD_DATA.replace("% 3", "% 5")), 2, "label is 4")


def test_nan_outputs(tmp_path: Path) -> None:
    broken = BLOCKS + "_model = model\ndef model():\n    m = _model()\n"
    broken += "    nn.init.constant_(m[3].bias, float('nan'))\n    return m\n"
    refused(run(tmp_path, broken + GOOD_DATA), 2, "NaN")


def test_no_removable_block(tmp_path: Path) -> None:
    subject = "def model():\n    return nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))\n"
    refused(run(tmp_path, subject + GOOD_DATA), 3, "by removing blocks")


@pytest.mark.case(55)
def test_budget_that_cannot_be_met(tmp_path: Path) -> None:
    result = run(tmp_path, BLOCKS + GOOD_DATA, budget="params=5%")
    refused(result, 3, "cannot be met")
    assert "it removes 0, 1, 2" in result.output


@pytest.mark.case(56)
def test_budget_already_met(tmp_path: Path) -> None:
    result = run(tmp_path, BLOCKS + GOOD_DATA, budget="params=1M")
    assert result.exit_code == 0, result.output
    assert "already" in result.output.lower()
    assert (tmp_path / "run" / "report.json").is_file()


def test_output_folder_exists(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("dear")
    refused(run(tmp_path, TINY), 2, "exists and holds something else")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "dear"


def test_read_only_output() -> None:
    options = ["optimize", str(TINY), "-b", "params=60%", "-o", "/proc/run"]
    refused(CliRunner().invoke(cli, options), 2, "Cannot write")


def test_paper_method_without_labels(tmp_path: Path) -> None:
    bare = BLOCKS + GOOD_DATA.replace(", torch.arange(8) % 3)", ", None)")
    refused(run(tmp_path, bare, "--method", "mpruner-paper"), 2, "retrains with labels")


def test_recipe_file_with_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "mpo.toml").write_text("bugdet = ['1MB']\n")
    refused(run(tmp_path, TINY, "-c", str(tmp_path / "mpo.toml")), 2, "Did you mean 'budget'")


@pytest.mark.parametrize("option", [("--opset", "30"), ("--batch", "0"), ("--max-drop", "lots")])
def test_options_out_of_range(tmp_path: Path, option: tuple[str, str]) -> None:
    result = run(tmp_path, BLOCKS + GOOD_DATA, *option)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
