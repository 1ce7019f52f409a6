"""`mpo contract` on tiny real models: verdicts, bounds, records, and bad input."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import mpo
from mpo.cli import cli
from mpo.errors import MpoError, RefusedError, UsageError
from mpo.exporters.onnx import export_onnx
from mpo.optimizer.data.subject import Subject
from mpo.optimizer.files.loading import load_model
from mpo.pipeline.contract.claims import make_terms
from mpo.pipeline.contract.comparing import make_contract
from mpo.pipeline.contract.scene import Asked
from mpo.records import Contract
from mpo.render.contract import terminal
from mpo.render.contracttext import sentence
from tests.bundle import small

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"


class Linear(nn.Module):
    """Three classes of two features; `turn` moves the boundary."""

    def __init__(self, turn: float = 0.0, classes: int = 3) -> None:
        super().__init__()
        self.line = nn.Linear(2, classes)
        with torch.no_grad():
            self.line.weight.copy_(
                torch.tensor([[1.0, 0], [-0.5, 1], [-0.5, -1], [9, 9]])[:classes]
            )
            self.line.bias.copy_(torch.tensor([turn, 0, 0, 9])[:classes])

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x)


def points(seed: int, count: int = 1024) -> list[Tensor]:
    """Bare inputs, without labels."""
    drawn = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return list(drawn.split(128))


def subject(model: nn.Module | None = None, **splits: object) -> Subject:
    given = {"train": points(1), "validation": points(2), "test": points(3), **splits}
    return Subject(model=model or Linear(), data=mpo.Data(**given))  # type: ignore[arg-type]


def judged(candidate: nn.Module, **terms: object) -> Contract:
    return mpo.contract(subject(), candidate, **terms)  # type: ignore[arg-type]


def test_the_same_model_keeps_the_contract_on_unlabelled_data() -> None:
    record = judged(Linear())
    assert record.verdict == "kept"
    assert [claim.differ for claim in record.claims] == [0] * 5
    assert record.quality == {}
    assert record.certificate is not None
    assert record.certificate.share == 1.0
    assert "at most" in sentence(record)


def test_a_moved_boundary_breaks_the_contract_where_accuracy_would_hardly_tell() -> None:
    record = judged(Linear(0.3), mass=0.1, eps="5%", strata=("overall", "region"))
    overall, region = record.claims
    assert (overall.verdict, region.verdict, record.verdict) == ("undecided", "broken", "broken")
    assert region.rate > 5 * overall.rate > 0
    assert record.exit_code == 4
    assert "near the decision boundary" in sentence(record)


def test_agreement_falls_towards_the_boundary() -> None:
    curve = judged(Linear(0.3)).curve
    assert len(curve) == 10
    assert curve[0].agreement < 0.9
    assert curve[-1].agreement == 1.0
    assert all(one.low < one.high for one in curve)


def test_the_region_is_fixed_on_validation_and_its_mass_told_of_fresh_samples() -> None:
    record = judged(Linear(), mass=0.2)
    assert record.region is not None
    low, high = record.region.mass_ci95
    assert low < 0.2 < high
    assert record.data.tau_split == "validation"
    assert record.data.bound_split == "test"
    fixed = judged(Linear(), tau=record.region.tau)
    assert fixed.region is not None
    assert fixed.region.asked_mass is None
    assert fixed.data.tau_samples == 0
    assert fixed.region.mass == record.region.mass


def test_claims_share_the_error_probability() -> None:
    assert [claim.alpha for claim in judged(Linear()).claims] == [pytest.approx(0.01)] * 5
    one = judged(Linear(), strata=("overall",), looks=2).claims
    assert [claim.alpha for claim in one] == [pytest.approx(0.025)]
    later = judged(Linear(), strata=("overall",), look=3).claims
    assert [claim.alpha for claim in later] == [pytest.approx(0.05 / 12)]
    assert make_terms(look=3, looks=4).alpha(2) == pytest.approx(0.05 / 12 / 4 / 2)


def test_looks_stop_early_on_a_clear_case() -> None:
    record = judged(Linear(), looks=4, strata=("overall",))
    assert record.verdict == "kept"
    assert record.data.samples < 1024


def test_too_few_samples_are_undecided_with_how_many_more() -> None:
    few = subject(test=points(3, 30))
    record = mpo.contract(few, Linear(), strata=("overall",), eps=0.01)
    assert record.verdict == "undecided"
    assert record.claims[0].more == 299 - 30
    assert record.exit_code == 0
    assert "269 more would decide" in sentence(record)


def test_no_sample_in_the_region_is_undecided() -> None:
    record = judged(Linear(), tau=0.0)
    region = next(claim for claim in record.claims if claim.stratum == "region")
    assert (region.samples, region.high, region.verdict) == (0, 1.0, "undecided")
    assert "no fresh sample" in sentence(record)


def test_with_eps_zero_one_difference_breaks_and_equality_stays_open() -> None:
    assert judged(Linear(0.3), eps=0.0).verdict == "broken"
    record = judged(Linear(), eps=0.0)
    assert record.verdict == "undecided"
    assert record.claims[0].needed is None
    assert "no number of samples" in sentence(record)


def test_test_samples_that_training_saw_are_left_out() -> None:
    mixed = subject(test=[*points(3), points(1)[0]])
    record = mpo.contract(mixed, Linear())
    assert (record.data.samples, record.data.duplicates) == (1024, 128)
    with pytest.raises(UsageError, match="No fresh sample is left: all 1024"):
        mpo.contract(subject(test=points(1)), Linear())


def test_models_of_different_label_spaces_are_refused() -> None:
    with pytest.raises(UsageError, match="3 classes, the other among 4"):
        judged(Linear(classes=4))


class Noisy(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(len(x), 3)


def test_a_model_that_answers_differently_each_time_is_refused() -> None:
    with pytest.raises(MpoError, match="The candidate gives different outputs"):
        judged(Noisy())


def test_labelled_data_tell_the_quality_of_both() -> None:
    rows = [(x, Linear()(x).argmax(-1)) for x in points(3)]
    record = mpo.contract(subject(test=rows), Linear(0.3))
    assert record.quality["original"].value == 1.0
    assert record.quality["candidate"].value == pytest.approx(1 - record.claims[0].rate)


class Regression(nn.Module):
    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.line, self.off = nn.Linear(2, 1), off
        nn.init.ones_(self.line.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) + self.off * x[:, :1] ** 3


def test_values_are_judged_by_a_tolerance() -> None:
    values = replace(subject(Regression()), outputs="values")
    record = mpo.contract(values, Regression(0.01), tolerance="5%")
    assert record.outputs == "values"
    assert record.distances is not None
    assert record.distances.tolerance == pytest.approx(0.05 * record.distances.spread)
    assert [claim.stratum for claim in record.claims] == ["overall"]
    assert "is off by more than" in sentence(record)
    assert mpo.contract(values, Regression(0.01), tolerance="100").verdict == "kept"
    with pytest.raises(UsageError, match="no tolerance"):
        mpo.contract(values, Regression(), tolerance="much")


def test_one_value_decides_by_its_side() -> None:
    values = replace(subject(Regression()), outputs="values")
    record = mpo.contract(values, Regression(0.1), split_at=0.0)
    assert (record.outputs, record.classes) == ("sides", 2)
    assert len(record.claims) == 4


class Speaker(nn.Module):
    """A next-token model: logits [N, T, V] of an embedding and a line."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.line = nn.Embedding(12, 8), nn.Linear(8, 12)
        self.scale = scale

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        return self.line(hidden * torch.tensor([self.scale, *[1.0] * 7]))


def test_language_models_are_judged_by_a_token_of_each_text_and_kl() -> None:
    def texts(seed: int) -> list[dict[str, Tensor]]:
        ids = torch.randint(12, (400, 6), generator=torch.Generator().manual_seed(seed))
        return [{"input_ids": part} for part in ids.split(100)]

    data = mpo.Data(train=texts(1), validation=texts(2), test=texts(3))
    own = Subject(model=Speaker(), data=data, outputs="logits")
    record = mpo.contract(own, Speaker(-1.0))
    assert record.outputs == "positions"
    assert record.data.samples == 400
    assert [claim.stratum for claim in record.claims] == ["overall", "region"]
    assert record.divergence is not None
    assert record.divergence.decisions == 2400
    assert record.divergence.mean > 0


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["contract", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_judges_files_and_ends_with_its_code(tmp_path: Path) -> None:
    model = load_model(str(TINY))()
    with torch.no_grad():
        model[2].bias += torch.tensor([6.0, 0.0, 0.0])
    other = tmp_path / "other.onnx"
    export_onnx(model, (torch.randn(2, 8),), {}, other)
    code, output = run(
        TINY,
        other,
        "--json",
        "--eps",
        "1%",
        "--mass",
        "20%",
        "--witnesses",
        str(tmp_path / "w.npz"),
        "--mine",
    )
    record = Contract.model_validate(json.loads(output))
    assert (code, record.verdict, record.candidate.kind) == (4, "broken", "onnx")
    code, output = run(other, TINY, "--data", TINY, "--eps", "1%", "--claims", "overall")
    assert code == 4, output
    assert "Broken" in output


def test_an_undecided_contract_fails_only_when_strict(tmp_path: Path) -> None:
    asked = (TINY, TINY, "--eps", "0.01%", "--claims", "overall")
    assert run(*asked, "-q") == (0, "")
    assert run(*asked, "-q", "--strict")[0] == 5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--tau", "1", "--mass", "10%"), "--tau and --mass"),
        (("--claims", "everything"), "everything is no claim"),
        (("--eps", "shore=5%"), "names no stratum"),
        (("--confidence", "1"), "A confidence of 1"),
        (("--tau", "-1"), "holds nothing or all"),
        (("--data", "nowhere.py"), "There is no file"),
    ],
)
def test_bad_options_are_refused(options: tuple[str, ...], told: str) -> None:
    code, output = run(TINY, TINY, *options)
    assert code == 2
    assert told in output
    assert "Traceback" not in output


def test_onnx_files_alone_need_data(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    code, output = run(tmp_path / "a.onnx", tmp_path / "a.onnx")
    assert code == 2
    assert "Neither model comes with data" in output


def test_a_record_is_shown_on_a_terminal() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal(judged(Linear(0.3))))
    shown = console.export_text()
    for word in ("Broken", "all inputs", "region", "class 2", "Certified", "KL", "Samples"):
        assert word in shown


def test_mining_saves_witnesses_that_enter_no_probability(tmp_path: Path) -> None:
    file = tmp_path / "w.npz"
    plain = judged(Linear(0.05), strata=("overall",))
    mined = judged(Linear(0.05), strata=("overall",), mine=True, witnesses=file)
    assert mined.claims == plain.claims
    assert mined.mining is not None
    assert mined.mining.found["gradient"] > 0
    assert mined.mining.found["mixture"] > 0
    assert mined.data.mining_split == "validation"
    model, moved = Linear(), Linear(0.05)
    with np.load(file, allow_pickle=False) as saved:
        count = len(saved["about"])
        inputs = [torch.from_numpy(saved[f"{number}.input.0"]) for number in range(count)]
    assert count >= len(mined.witnesses) > 0
    for one in inputs:
        assert model(one).argmax() != moved(one).argmax()
    reach = [w.linf_of_range or 0.0 for w in mined.witnesses if w.search == "gradient"]
    assert max(reach) <= 0.1


def test_with_eps_zero_one_mined_input_breaks_the_contract() -> None:
    few = subject(test=points(3, 4))
    near = Linear(0.01)
    assert mpo.contract(few, near, eps=0, strata=("overall",)).verdict == "undecided"
    record = mpo.contract(few, near, eps=0, strata=("overall",), mine=True)
    assert record.verdict == "broken"
    assert "An input was found" in sentence(record)


def test_mining_values_is_refused() -> None:
    values = replace(subject(Regression()), outputs="values")
    with pytest.raises(UsageError, match="one decision"):
        mpo.contract(values, Regression(0.1), mine=True)


def test_a_bundle_is_judged_by_the_model_in_it_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    original, bundle = nn.Linear(2, 3, bias=False), tmp_path / "small.mpo"
    with torch.no_grad():
        original.weight.copy_(torch.from_numpy(small.WEIGHT.T))
    small.write_small(bundle)
    record = mpo.contract(subject(original), bundle)
    assert (record.verdict, record.candidate.kind) == ("kept", "bundle")
    assert record.candidate.name == str(bundle)
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 2] ^= 1
    bundle.write_bytes(bytes(raw))
    with pytest.raises(RefusedError):
        mpo.contract(subject(original), bundle)


class Flags(nn.Module):
    """Two classes by the first two of many flags."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2].float()


def flags(seed: int) -> list[Tensor]:
    return [torch.randn(128, 40, generator=torch.Generator().manual_seed(seed)) > 0]


def test_a_guard_without_an_input_that_can_be_changed_leaves_the_search_out() -> None:
    whole = subject(Flags(), train=flags(1), validation=flags(2), test=flags(3))
    asked = Asked(original=whole, candidate=Flags(), data=whole, mine=None)
    record = make_contract(asked, lambda *_: None)
    assert (record.mining, record.witnesses) == (None, ())
    with pytest.raises(UsageError, match="No floating or token input"):
        make_contract(replace(asked, mine=True), lambda *_: None)


def test_an_original_that_is_not_finite_on_validation_sets_no_region() -> None:
    wrong = [*points(2)[:4], torch.full((128, 2), torch.nan)]
    with pytest.raises(MpoError, match="validation"):
        mpo.contract(subject(validation=wrong), Linear())
