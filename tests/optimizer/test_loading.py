import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mpo.errors import RefusedError, UsageError
from mpo.optimizer.data.randominputs import random_data
from mpo.optimizer.data.splits import carve
from mpo.optimizer.files.loading import load_subject

FILE = """
import torch, mpo
def model(): return torch.nn.Linear(4, 3)
def data():
    batch = (torch.ones(8, 4), torch.zeros(8, dtype=torch.long))
    return mpo.Data(train=[batch], validation=[batch], test=[batch])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own_subject.py"
    path.write_text(FILE)
    return path


def test_a_subject_file_gives_model_and_data(file: Path) -> None:
    subject = load_subject(str(file))
    assert isinstance(subject.build(), nn.Linear)
    assert next(iter(subject.splits().train)).size == 8


def test_a_module_and_factory_on_the_path_work(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    subject = load_subject("own_subject:model")
    assert isinstance(subject.build(), nn.Linear)


def test_files_beside_the_subject_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("WIDTH = 5\n")
    path = tmp_path / "subject.py"
    path.write_text(FILE.replace("torch.nn.Linear(4, 3)", "__import__('beside_it') and None"))
    with pytest.raises(UsageError, match="returned NoneType"):
        load_subject(str(path)).build()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"no file nowhere\.py"):
        load_subject("nowhere.py")


def test_a_file_without_model_or_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(UsageError, match=r"defines no model\(\)"):
        load_subject(str(path))
    path.write_text("import torch\ndef model(): return torch.nn.Linear(1, 1)\n")
    with pytest.raises(UsageError, match=r"has no data\(\)"):
        load_subject(str(path))


def test_a_file_that_does_not_parse_tells_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def model(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        load_subject(str(path))


def test_a_name_that_is_nothing_and_a_module_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="names no subject"):
        load_subject("resnet50")
    with pytest.raises(UsageError, match="Cannot import"):
        load_subject("no_such_package_anywhere:model")


def test_weights_are_loaded_into_the_factory_model(file: Path, tmp_path: Path) -> None:
    state = {"weight": torch.full((3, 4), 2.0), "bias": torch.zeros(3)}
    save_file(state, tmp_path / "w.safetensors")
    model = load_subject(str(file), weights=tmp_path / "w.safetensors").build()
    assert float(model.get_parameter("weight").detach().sum()) == 24.0


def test_pickle_weights_are_refused_unless_allowed(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(nn.Linear(4, 3), path)
    with pytest.raises(RefusedError, match="pickle"):
        load_subject(str(file), weights=path).build()


def test_random_inputs_stand_in_for_data_and_say_so(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("import torch\ndef model(): return torch.nn.Linear(4, 3)\n")
    subject = load_subject(str(path), inputs=("1x4",))
    splits = subject.splits()
    batch = next(iter(splits.train))
    assert batch.args[0].shape == (8, 4)
    assert batch.targets is None
    assert "Random inputs" in splits.notes[0]


def test_named_integer_inputs_become_keywords() -> None:
    data = random_data(("input_ids=1x6:int", "attention_mask=1x6"))
    batch = next(iter(carve(data, 0).train))
    assert batch.kwargs["input_ids"].dtype == torch.int64
    assert batch.kwargs["input_ids"].shape == (8, 6)
    assert int(batch.kwargs["input_ids"].max()) < 10
    kinds = next(iter(carve(random_data(("kinds=1x6:int2",)), 0).train)).kwargs["kinds"]
    assert set(kinds.flatten().tolist()) == {0, 1}


def test_random_inputs_beside_data_are_refused(file: Path) -> None:
    with pytest.raises(UsageError, match=r"has data\(\), and --input"):
        load_subject(str(file), inputs=("1x4",))


def test_an_input_that_is_no_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="no input shape"):
        random_data(("3,224",))


def test_a_folder_that_is_no_hugging_face_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        load_subject(f"hf:{tmp_path}")


def test_a_hugging_face_folder_is_loaded_without_a_network(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=120,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    subject = load_subject(f"hf:{tmp_path / 'bert'}", inputs=("input_ids=1x6:int",))
    capfd.readouterr()
    with torch.no_grad():
        outputs = subject.build()(**next(iter(subject.splits().train)).kwargs)
    assert outputs.logits.shape == (8, 2)
    assert "Loading weights" not in capfd.readouterr().err


TIMM = """
import torch
def list_models(): return ["resnet18", "resnet50"]
def is_model(name): return name in list_models()
def create_model(name, pretrained): assert not pretrained; return torch.nn.Linear(4, 3)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a package that stands where timm would be."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(TIMM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    return tmp_path / "timm" / "__init__.py"


def test_an_architecture_of_timm_takes_the_weights_of_a_file(library: Path) -> None:
    bare = load_subject("timm:resnet18", inputs=("1x4",))
    assert "random weights" in bare.notes[0]
    trained = nn.Linear(4, 3)
    save_file(trained.state_dict(), library.parents[1] / "w.safetensors")
    subject = load_subject(
        "timm:resnet18", inputs=("1x4",), weights=library.parents[1] / "w.safetensors"
    )
    assert torch.equal(subject.build().state_dict()["weight"], trained.weight)
    assert not any("random weights" in note for note in subject.notes)


@pytest.mark.usefixtures("library")
def test_an_architecture_that_timm_does_not_know_is_named_with_those_like_it() -> None:
    with pytest.raises(UsageError, match="no architecture 'resnet81'") as caught:
        load_subject("timm:resnet81", inputs=("1x4",))
    assert "resnet18" in caught.value.hint


@pytest.mark.parametrize("error", ["RuntimeError('operator torchvision::nms')", "ImportError('x')"])
def test_a_timm_that_cannot_be_imported_is_told_in_a_sentence(library: Path, error: str) -> None:
    library.write_text(f"raise {error}")
    with pytest.raises(UsageError, match="timm") as caught:
        load_subject("timm:resnet18", inputs=("1x4",))
    assert "torchvision" in caught.value.hint


@pytest.mark.parametrize(
    "line", ["labels = 3", "labels = [1, 2]", "preprocessing = {'m': object()}"]
)
def test_labels_and_preprocessing_that_no_file_could_hold_are_refused(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "subject.py"
    path.write_text(f"def model(): ...\ndef data(): ...\n{line}\n")
    with pytest.raises(UsageError, match=line.split(" ")[0]):
        load_subject(str(path))
