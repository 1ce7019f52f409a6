"""`mpo export`: every file is there, checked and told of; what fails costs nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from torch import Tensor, nn

import mpo
from mpo.cli import cli
from mpo.errors import MpoError, UsageError
from mpo.exporters.runtime import run_onnx
from mpo.optimizer.blocks.surgery import remove_blocks
from mpo.optimizer.files.artifact import save_model
from mpo.optimizer.files.loading import load_subject
from mpo.pipeline.export.dynamic import parse_dynamic
from mpo.pipeline.export.formats import in_range
from mpo.pipeline.run.rebuilt import plan_digest
from mpo.records import Export, ExportAxis, Plan, Report
from mpo.render.export import export_table
from mpo.replacing import MARKER, RECIPE
from mpo.schemas import load as schema

PAIR = Path(__file__).parents[1] / "subjects" / "pair.py"


def call(*options: str) -> Result:
    return CliRunner().invoke(cli, ["export", *options])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export") / "files"


@pytest.fixture(scope="module")
def record(folder: Path) -> Export:
    pytest.importorskip("openvino")
    pytest.importorskip("tensorrt_rtx")
    to = ("--to", "onnx,openvino", "--to", "tensorrt-rtx")
    result = call(str(PAIR), *to, "--dynamic", "batch[1:4:8]", "-o", str(folder), "--json")
    assert result.exit_code == 0, result.output
    jsonschema.validate(json.loads(result.stdout), schema("export"))
    return Export.model_validate_json(result.stdout)


def test_every_file_is_there_with_its_hash_and_the_record(record: Export, folder: Path) -> None:
    names = {file.path for file in record.artifacts}
    assert names == {"model.onnx", "model.xml", "model.bin", "model.rtx"}
    assert {path.name for path in folder.iterdir()} == names | {"export.json"}
    for file in record.artifacts:
        raw = (folder / file.path).read_bytes()
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (file.bytes, file.sha256)
    assert Export.model_validate_json((folder / "export.json").read_text()) == record


def test_the_onnx_file_agrees_with_torch_in_every_output_and_in_the_task(record: Export) -> None:
    parity = record.trunk.parity
    assert parity is not None
    assert parity.ok
    assert len(set(parity.batches)) >= 2
    assert [one.name for one in parity.outputs] == ["logits", "pooled"]
    assert all(one.cosine > 0.999999 for one in parity.outputs)
    assert record.trunk.quality["onnx"] == record.trunk.quality["torch"]
    assert record.trunk.quality["onnx"].value == 1.0


def test_axes_that_differ_in_the_data_are_free_and_engines_take_what_was_seen(
    record: Export,
) -> None:
    batch, length = record.trunk.axes
    assert (batch.name, batch.low, batch.best, batch.high) == ("batch", 1, 4, 8)
    assert batch.source == "asked"
    assert length.inputs == ("input_ids:1", "attention_mask:1")
    assert (length.low, length.high, length.source) == (4, 9, "data")


def test_an_engine_is_built_without_a_gpu_and_said_not_to_have_run(record: Export) -> None:
    engine = record.formats[2]
    if engine.ran:
        pytest.skip("there is a GPU here")
    assert engine.ok
    assert engine.ran_reason == "no GPU here"
    console = Console(width=200, record=True)
    console.print(export_table(record, Path("files")))
    text = console.export_text()
    assert "built, not run: no GPU here" in text
    assert engine.files[0].sha256[:12] in text


def test_openvino_answers_as_onnx_runtime_does(record: Export) -> None:
    found = record.formats[1]
    assert found.ran
    assert found.parity is not None
    assert found.parity.ok
    assert len(found.parity.outputs) == 2


def test_facts_of_the_subject_are_inside_the_file(record: Export, folder: Path) -> None:
    notes = {one.key: one.value for one in onnx.load(folder / "model.onnx").metadata_props}
    assert notes["mpo.version"] == mpo.__version__
    assert json.loads(notes["mpo.labels"]) == ["no", "maybe", "yes"]
    assert json.loads(notes["mpo.preprocessing"]) == {"tokenizer": "whitespace", "pad": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as `mpo optimize` leaves it, made without measuring."""
    folder = tmp_path_factory.mktemp("runs") / "pair"
    folder.mkdir()
    removed = ("layers.1",)
    subject = load_subject(str(PAIR))
    save_model(remove_blocks(subject.build(), removed), folder / "model.safetensors")
    plan = Plan(method="mpruner", subject=str(PAIR), seed=0, removed=removed, harm=0.0)
    (folder / "plan.json").write_text(plan.model_dump_json())
    (folder / RECIPE).write_text(f'subject = "{PAIR}"\nmax_drop = "90%"\n')
    (folder / MARKER).write_text('{"started_in": "."}')
    return folder


@pytest.mark.case(48)
def test_a_runs_pruned_model_is_exported_in_int8_and_a_missing_engine_costs_nothing_else(
    run: Path,
) -> None:
    result = call(str(run), "--to", "onnx,tensorrt", "--precision", "int8-dynamic", "--json")
    assert result.exit_code == 7, result.output
    found = Export.model_validate_json(result.stdout)
    assert (found.kind, found.removed, found.status) == ("run", ("layers.1",), "partial")
    path = run / "export" / "model.onnx"
    notes = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert notes["mpo.plan_sha256"] == found.plan_sha256 != ""
    nodes = onnx.load(path).graph.node
    assert any("MatMulInteger" in node.op_type for node in nodes)
    assert found.trunk.nodes == len(nodes)
    assert found.trunk.conversion is not None
    assert found.trunk.reduced is not None
    assert found.trunk.reduced.max_rel > 0
    assert found.trunk.dropped is not None
    engine = found.formats[1]
    assert not engine.ok
    assert "DynamicQuantizeLinear" in engine.reason
    assert {file.path for file in found.artifacts} == {"model.onnx"}


def test_a_run_that_only_changed_the_precision_names_its_plan_in_the_file(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("export", "*.safetensors"))
    save_model(load_subject(str(PAIR)).build(), folder / "model.safetensors")
    plan = Plan(
        method="mpruner", subject=str(PAIR), seed=0, removed=(), harm=0.0, precision="int8-dynamic"
    )
    (folder / "plan.json").write_text(plan.model_dump_json())
    found = mpo.export(folder)
    notes = {
        one.key: one.value for one in onnx.load(folder / "export" / "model.onnx").metadata_props
    }
    assert found.trunk.precision == "int8-dynamic"
    assert notes["mpo.plan_sha256"] == found.plan_sha256 == plan_digest(plan)


def test_a_run_that_did_not_finish_is_no_model(run: Path, tmp_path: Path) -> None:
    """A run without a plan that holds leaves the closest one; its original is not its result."""
    for removed in ((), ("layers.1",)):
        folder = tmp_path / f"run{len(removed)}"
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("export", "*.safetensors"))
        plan = Plan(
            method="mpruner", subject=str(PAIR), seed=0, removed=removed, harm=0.0,
            notes=("The budget params=1 cannot be met.",),
        )  # fmt: skip
        (folder / "plan.json").write_text(plan.model_dump_json())
        result = call(str(folder), "-o", str(tmp_path / "files"))
        assert result.exit_code == 2, result.output
        assert "did not finish. The budget params=1 cannot be met." in result.output
        assert not (tmp_path / "files").exists()


def test_int8_with_a_fixed_batch_is_made_and_said_not_to_be_judged(tmp_path: Path) -> None:
    options = ("--dynamic", "none", "--batch", "3", "--precision", "int8", "--json")
    result = call(str(PAIR.with_name("tiny.py")), *options, "-o", str(tmp_path / "files"))
    assert result.exit_code == 0, result.output
    found = Export.model_validate_json(result.stdout)
    assert found.trunk.axes == ()
    assert found.trunk.dropped is None
    assert any("nobody judged what int8 costs" in text for text in found.warnings)


def test_a_fixed_batch_beyond_the_data_s_is_refused(tmp_path: Path) -> None:
    options = ("--dynamic", "none", "--batch", "100", "-o", str(tmp_path / "files"))
    result = call(str(PAIR.with_name("tiny.py")), *options)
    assert result.exit_code == 2, result.output
    assert "A fixed batch of 100 needs a sample of that size" in result.output


def test_an_engine_is_only_fed_what_its_ranges_take() -> None:
    """Data come in batches of 64, and engines take 32 unless someone says more."""
    batch = ExportAxis(
        name="batch", inputs=("ids:0", "mask:0"), low=2, best=2, high=32, source="default"
    )
    length = ExportAxis(name="n", inputs=("ids:1",), low=4, best=4, high=8, source="data")
    feeds = [
        {"ids": np.zeros((rows, columns)), "mask": np.zeros((rows, 1))}
        for rows, columns in ((1, 4), (7, 4), (64, 8), (64, 9))
    ]
    found = in_range(feeds, [batch, length])
    assert [(one["ids"].shape, one["mask"].shape) for one in found] == [
        ((7, 4), (7, 1)),
        ((32, 8), (32, 1)),
    ]


class Deceiver(nn.Module):
    """Another model while it is traced than when it runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x * 1.5 if torch.compiler.is_exporting() else x)


@pytest.mark.case(49)
def test_a_file_out_of_parity_is_not_written_and_the_first_place_is_named(tmp_path: Path) -> None:
    rows = [(torch.randn(8, 4), torch.arange(8) % 3) for _ in range(2)]
    subject = mpo.Subject(Deceiver(), mpo.Data(train=rows, validation=rows, test=rows))
    with pytest.raises(MpoError, match="second") as caught:
        mpo.export(subject, output=tmp_path / "files")
    assert caught.value.exit_code == 1
    assert "differs from the torch model" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    target = ("-o", str(tmp_path / "files"))
    for options, said in (
        (("--to", "openvno"), "Did you mean openvino"),
        (("--dynamic", "input:0=batch[8:1]"), "sizes out of order"),
        (("--dynamic", "rows"), "neither an axis nor sizes"),
        (("--set", "workspace=5"), "names no option of a format"),
        (("--set", "openvino.threads=2"), "not among the formats that are made"),
        (("--set", "onnx.level=2"), "The format onnx has no option 'level'"),
        (("--precision", "fp32", "--dynamic", "x:0", "--dynamic", "none"), "beside another"),
    ):
        result = call(str(PAIR), *options, *target)
        assert result.exit_code == 2, result.output
        assert said in result.output
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mine.txt").write_text("mine")
    result = call(str(PAIR), *target, "--overwrite")
    assert result.exit_code == 2
    assert "is not empty" in result.output
    assert (tmp_path / "files" / "mine.txt").read_text() == "mine"


def test_dynamic_is_read() -> None:
    (first, second) = parse_dynamic(["input:0=batch[1:32]", "length[4:16:64]"]) or ()
    assert (first.input, first.axis, first.name, first.sizes) == ("input", 0, "batch", (1, 1, 32))
    assert (second.input, second.name, second.sizes) == ("", "length", (4, 16, 64))
    assert parse_dynamic(["none"]) is None
    with pytest.raises(UsageError, match="names no axis"):
        parse_dynamic(["a:b:c"])


@pytest.mark.case(48)
def test_a_run_ends_with_the_formats_it_was_asked_for_and_7_when_one_is_missing(
    tmp_path: Path,
) -> None:
    pytest.importorskip("openvino")
    options = ["optimize", str(PAIR), "-b", "params=100%", "--threads", "1", "--effort", "quick"]
    options += ["--export", "openvino,tensorrt", "-o", str(tmp_path / "run"), "--json"]
    result = CliRunner().invoke(cli, options)
    assert result.exit_code == 7, result.output
    report = Report.model_validate_json(result.stdout)
    jsonschema.validate(json.loads(result.stdout), schema("report"))
    assert report.status == "already-met"
    made, missing = report.formats
    assert made.ok
    assert made.parity is not None
    assert made.parity.ok
    assert not missing.ok
    (told,) = [text for text in report.warnings if "tensorrt was not made" in text]
    assert ".." not in told
    held = {file.path for file in report.artifacts}
    assert {"model.onnx", "model.xml", "model.bin"} <= held
    for file in report.artifacts:
        assert hashlib.sha256((tmp_path / "run" / file.path).read_bytes()).hexdigest() == (
            file.sha256
        )


def test_an_onnx_file_is_exported_further_and_a_hostile_one_is_refused(
    record: Export, folder: Path, tmp_path: Path
) -> None:
    source = folder / "model.onnx"
    options = ("--to", "onnx,openvino", "--dynamic", "batch[1:2:4]", "--json")
    result = call(str(source), *options, "-o", str(tmp_path / "files"))
    assert result.exit_code == 0, result.output
    found = Export.model_validate_json(result.stdout)
    assert (found.kind, found.trunk.tracer) == ("onnx", "given")
    copy, ir = found.formats
    assert copy.files[0].sha256 == record.formats[0].files[0].sha256
    assert ir.parity is not None
    assert ir.parity.ok
    assert any("random inputs" in text for text in found.warnings)
    result = call(str(source), "--precision", "int8", "-o", str(tmp_path / "int8"))
    assert result.exit_code == 2
    assert "calibrated on real inputs" in result.output
    hostile = onnx.load(source)
    weight = hostile.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weight, "../../etc/passwd")
    weight.ClearField("raw_data")
    (tmp_path / "hostile.onnx").write_bytes(hostile.SerializeToString())
    result = call(str(tmp_path / "hostile.onnx"), "-o", str(tmp_path / "out"))
    assert result.exit_code in (2, 8), result.output
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_whose_weights_lie_in_a_folder_is_copied_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "weights").mkdir(parents=True)
    onnx.save(
        product(), source / "wide.onnx", save_as_external_data=True, location="weights/w.bin",
        size_threshold=0,
    )  # fmt: skip
    result = call(str(source / "wide.onnx"), "-o", str(tmp_path / "files"), "--json")
    assert result.exit_code == 0, result.output
    record = Export.model_validate_json(result.stdout)
    assert [file.path for file in record.artifacts] == ["model.onnx", "weights/w.bin"]
    x = np.ones((2, 4), np.float32)
    before, after = (
        run_onnx(path, (torch.from_numpy(x),), {})[0]
        for path in (source / "wide.onnx", tmp_path / "files" / "model.onnx")
    )
    assert np.array_equal(before, after)


def test_an_onnx_file_in_int8_is_compared_with_the_given_one_and_a_copy_is_no_proof(
    tmp_path: Path,
) -> None:
    source = tmp_path / "wide.onnx"
    onnx.save(product(), source)
    found = mpo.export(source, output=tmp_path / "copy")
    (copy,) = found.formats
    assert (copy.ran, copy.ran_reason) == (False, "the file as it was given")
    assert found.warnings == ()
    found = mpo.export(source, precision="int8-dynamic", output=tmp_path / "int8")
    (made,) = found.formats
    assert made.ran
    assert made.parity is not None
    assert made.parity.max_rel > 0
    assert found.trunk.nodes == len(onnx.load(tmp_path / "int8" / "model.onnx").graph.node) > 1
    console = Console(width=200)
    with console.capture() as text:
        console.print(export_table(found, tmp_path))
    assert "built" not in text.get()


def test_weights_of_a_name_that_the_export_gives_away_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    onnx.save(
        product(), source / "wide.onnx", save_as_external_data=True, location="model.onnx",
        size_threshold=0,
    )  # fmt: skip
    result = call(str(source / "wide.onnx"), "-o", str(tmp_path / "files"))
    assert result.exit_code == 2, result.output
    assert "a name that the export gives to another file" in result.output
    assert not (tmp_path / "files").exists()


def test_axes_that_an_onnx_file_does_not_have_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "wide.onnx"
    onnx.save(product(), source)
    for asked, said in (
        ("nope:0=batch", "no input 'nope'"),
        ("x:5=batch", "there is no axis 5"),
        ("none", "an ONNX file has the axes it has"),
    ):
        result = call(str(source), "--dynamic", asked, "-o", str(tmp_path / "files"))
        assert result.exit_code == 2, result.output
        assert said in result.output


def product() -> onnx.ModelProto:
    """x @ w with rows free."""
    named = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [named("x", onnx.TensorProto.FLOAT, ["rows", 4])],
        [named("y", onnx.TensorProto.FLOAT, ["rows", 4])],
        [weight],
    )
    opset = onnx.helper.make_opsetid("", 20)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
