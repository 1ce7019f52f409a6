"""The pre-flight of foreign ONNX files: attacks end with exit 2 or 8, soon, and write nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.exporters import preflight as module
from mpo.exporters.onnxrules import Bounds, Refused, look
from mpo.exporters.preflight import preflight
from mpo.exporters.preflightworker import look_at
from mpo.exporters.wire import Malformed
from tests.exporters import crafted
from tests.exporters.crafted import SIZE, graph_of, model_of, outside, save, sound

LIMIT_SECONDS = 10


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds the same files after the test, with the weights `w.bin` in it."""
    (tmp_path / "w.bin").write_bytes(bytes(4 * SIZE))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(4 * SIZE))
    yield folder
    assert (tmp_path / "w.bin").read_bytes() == bytes(4 * SIZE)
    assert {path.name for path in tmp_path.iterdir()} == {"models", "w.bin"}


def judge(model: ModelProto | bytes) -> None:
    raw = model if isinstance(model, bytes) else model.SerializeToString()
    look(raw, Bounds())


def told(path: Path, verdict: str, said: str) -> None:
    """What the child would say, asked in this process: the rules are the same, and it is sooner."""
    before = sorted(path.parent.iterdir())
    found = look_at({"model": str(path), "bounds": asdict(Bounds())})
    assert (found["verdict"], said in found["why"]) == (verdict, True), found
    assert sorted(path.parent.iterdir()) == before


def ends(path: Path, kind: type[MpoError], said: str, *, load: bool = False) -> None:
    before, start = sorted(path.parent.iterdir()), sum(os.times()[:4])
    with pytest.raises(kind, match=said) as caught:
        preflight(path, load=load)
    assert caught.value.exit_code in (2, 8)
    assert sum(os.times()[:4]) - start < LIMIT_SECONDS  # of processor time, children's included
    assert sorted(path.parent.iterdir()) == before


def test_a_sound_model_is_told_of(place: Path) -> None:
    found = preflight(save(sound(), place / "m.onnx"))
    assert (found.nodes, found.tensors, found.external, found.load_error) == (2, 1, (), "")


def test_weights_beside_the_model_are_sound(place: Path) -> None:
    found = preflight(save(outside("w.bin"), place / "m.onnx"))
    assert found.external == ("w.bin",)
    assert found.bytes == (place / "m.onnx").stat().st_size + 4 * SIZE


def test_weights_in_a_folder_below_are_sound(place: Path) -> None:
    (place / "data").mkdir()
    (place / "w.bin").rename(place / "data" / "w.bin")
    assert preflight(save(outside("data/w.bin"), place / "m.onnx")).external == ("data/w.bin",)


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin", "/dev/zero", "models/../../w.bin", "..", "C:\\w.bin", "C:/w.bin",
        "\\\\host\\share\\w.bin", "..\\w.bin", "data//w.bin", "w.bin\x00.txt",
        "*/_ORT_MEM_ADDR_/*", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_weights_outside_of_the_folder_are_refused(location: str, place: Path) -> None:
    told(save(outside(location), place / "m.onnx"), "refused", "outside of its own folder")


def test_weights_behind_a_link_are_refused(place: Path) -> None:
    (place / "w.bin").unlink()
    (place / "w.bin").symlink_to("../w.bin")
    ends(save(outside("w.bin"), place / "m.onnx"), RefusedError, "link")


def test_weights_behind_a_linked_folder_are_refused(place: Path) -> None:
    (place / "data").symlink_to("..")
    told(save(outside("data/w.bin"), place / "m.onnx"), "refused", "link")


def test_weights_with_a_second_name_are_refused(place: Path) -> None:
    (place / "second").hardlink_to(place / "w.bin")
    told(save(outside("w.bin"), place / "m.onnx"), "refused", "one name")


def test_weights_in_a_pipe_are_refused_and_not_waited_for(place: Path) -> None:
    (place / "w.bin").unlink()
    os.mkfifo(place / "w.bin")
    ends(save(outside("w.bin"), place / "m.onnx"), RefusedError, "no plain file")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"offset": "8"}, "which has 32"),
        ({"offset": "-8"}, "begins, or ends"),
        ({"offset": "9" * 30}, "begins, or ends"),
        ({"offset": str(2**62)}, "which has 32"),
        ({"length": "33"}, "takes 33"),
        ({"length": "1e3"}, "begins, or ends"),
    ],
)
def test_a_range_that_the_weights_file_does_not_have_is_malformed(
    more: dict[str, str], said: str, place: Path
) -> None:
    told(save(outside("w.bin", **more), place / "m.onnx"), "malformed", said)


def test_a_missing_weights_file_is_malformed(place: Path) -> None:
    told(save(outside("gone.bin"), place / "m.onnx"), "malformed", "not beside it")


def test_weights_that_share_a_part_are_malformed(place: Path) -> None:
    model = outside("w.bin", length="16")
    model.graph.initializer[0].dims[0] = 4
    second = model.graph.initializer.add()
    second.CopyFrom(model.graph.initializer[0])
    second.external_data[1].value = "8"
    told(save(model, place / "m.onnx"), "malformed", "share a part")


def test_a_small_weights_file_used_a_thousand_times_is_malformed(place: Path) -> None:
    model = outside("w.bin")
    model.graph.initializer.extend([model.graph.initializer[0]] * 1000)
    told(save(model, place / "m.onnx"), "malformed", "more weights")


@pytest.mark.parametrize("key", ["__class__", "data_location", ""])
def test_unknown_words_about_a_weights_file_are_refused(key: str) -> None:
    with pytest.raises(Refused, match="describes its file"):
        judge(outside("w.bin", **{key: "1"}))


def test_a_word_given_twice_is_refused() -> None:
    model = outside("w.bin")
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(Refused, match="describes its file"):
        judge(model)


def hidden_in(where: str) -> ModelProto:
    """Weights outside of the folder, in a place that is easily overlooked."""
    tensor = numpy_helper.from_array(np.ones(SIZE, np.float32), "w")
    crafted.bend_outside(tensor, "../w.bin")
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    if where == "attribute":
        model = sound()
        model.graph.node.append(constant)
    elif where == "subgraph":
        model = crafted.nested(2)
        model.graph.node[0].attribute[0].g.node[0].attribute[0].g.node.append(constant)
    elif where == "function":
        model = crafted.calling({"f": []})
        model.functions[0].node.append(constant)
    elif where == "default":
        model = crafted.calling({"f": []})
        model.functions[0].attribute_proto.append(helper.make_attribute("t", tensor))
    elif where == "training":
        model = sound()
        model.training_info.add().algorithm.initializer.append(tensor)
    else:
        model = sound()
        sparse = model.graph.sparse_initializer.add(dims=[SIZE])
        getattr(sparse, where).CopyFrom(tensor)
    return model


@pytest.mark.parametrize(
    "where",
    ["attribute", "subgraph", "function", "default", "training", "values", "indices"],
)
def test_weights_elsewhere_are_found_wherever_they_hide(where: str, place: Path) -> None:
    ends(save(hidden_in(where), place / "m.onnx"), RefusedError, "outside of its own folder")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.case(62)
def test_a_truncated_file_is_malformed(kept: float, place: Path) -> None:
    raw = save(sound(), place / "m.onnx").read_bytes()
    (place / "m.onnx").write_bytes(raw[: int(kept * len(raw))])
    told(place / "m.onnx", "malformed", "")


@pytest.mark.case(62)
def test_a_file_cut_off_anywhere_is_never_taken_for_whole() -> None:
    raw = sound().SerializeToString()
    whole = 0
    for end in range(len(raw)):
        try:
            judge(raw[:end])
        except Malformed:
            continue
        whole += 1
    # The opset list stands last: cut exactly before it, the rest is a message of its own.
    assert whole <= 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x80\x04\x95rest", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "git-lfs"),
        (b'{"error": "not found"}', "JSON"),
        (bytes(5000), "field of the number 0"),
    ],
)
@pytest.mark.case(62)
def test_another_kind_of_file_is_named(content: bytes, said: str, place: Path) -> None:
    (place / "m.onnx").write_bytes(content)
    told(place / "m.onnx", "malformed", said)


def bent(change: crafted.Bend) -> ModelProto:
    model = sound()
    change(model)
    return model


MALFORMED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "a huge axis": (lambda: bent(lambda m: m.graph.initializer[0].dims.append(10**12)), "holds 32"),
    "axes that overflow": (
        lambda: bent(lambda m: m.graph.initializer[0].dims.extend([2**62, 2**62])),
        "holds 32",
    ),
    "a negative axis": (lambda: bent(lambda m: m.graph.initializer[0].dims.append(-1)), "negative"),
    "too few bytes": (
        lambda: bent(lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234")),
        "holds 4",
    ),
    "too few floats": (
        lambda: bent(lambda m: m.graph.initializer.add(dims=[9], data_type=1, float_data=[1.0])),
        "9 elements",
    ),
    "an unknown type": (
        lambda: bent(lambda m: setattr(m.graph.initializer[0], "data_type", 99)),
        "unknown type",
    ),
    "values in two places": (
        lambda: bent(lambda m: m.graph.initializer[0].float_data.extend([1.0] * SIZE)),
        "must stand",
    ),
    "a file that is not used": (
        lambda: bent(lambda m: m.graph.initializer[0].external_data.add(key="location", value="w")),
        "contradicts itself",
    ),
    "a sparse tensor of petabytes": (
        lambda: bent(
            lambda m: m.graph.sparse_initializer.add(
                dims=[10**8, 10**7],
                values=numpy_helper.from_array(np.ones(1, np.float32)),
                indices=numpy_helper.from_array(np.ones(1, np.int64)),
            )
        ),
        "unfolds to",
    ),
    "an input of terabytes": (
        lambda: model_of(
            helper.make_graph(
                [helper.make_node("Relu", ["x"], ["y"])], "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [10**6, 10**6])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            )
        ),
        "an input of 4e",
    ),
    "graphs in graphs": (lambda: crafted.nested(20), "more than 16 deep"),
    "functions that unfold": (lambda: crafted.doubling(40), "unfold to more than 100000"),
    "a function that calls itself": (lambda: crafted.calling({"f": ["f"]}), "calls itself"),
    "functions in a ring": (
        lambda: crafted.calling({"f": ["g"], "g": ["h"], "h": ["f"]}),
        "calls itself",
    ),
    "a chain of functions": (
        lambda: crafted.calling({f"f{n}": [f"f{n + 1}"] for n in range(200)} | {"f200": []}),
        "more than 64 deep",
    ),
    "a function twice": (
        lambda: bent_functions("f", "f"),
        "twice",
    ),
    "no nodes": (lambda: model_of(graph_of([])), "without nodes"),
}  # fmt: skip


def bent_functions(*names: str) -> ModelProto:
    model = crafted.calling({names[0]: []})
    for name in names[1:]:
        again = model.functions.add()
        again.CopyFrom(model.functions[0])
        again.name = name
    return model


@pytest.mark.parametrize("name", MALFORMED)
def test_what_no_exporter_writes_is_malformed(name: str) -> None:
    make, said = MALFORMED[name]
    with pytest.raises(Malformed, match=said):
        judge(make())


def test_types_nested_without_end_are_malformed() -> None:
    model = sound()
    inner = model.graph.input[0].type
    for _ in range(25):
        inner = inner.sequence_type.elem_type
    inner.tensor_type.elem_type = 1
    with pytest.raises(Malformed, match="more than 16 deep"):
        judge(model)


def test_a_graph_given_twice_is_malformed() -> None:
    """Libraries merge the two, and need not agree how."""
    with pytest.raises(Malformed, match="twice"):
        judge(sound().SerializeToString() * 2)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x08" + b"\xff" * 11,  # a number of more than 64 bits
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph of 4 GiB in a file of 6 bytes
        b"\x3b\x3c",  # a group, which ONNX never has
        b"\x3a\x02\x0a\x7f",  # a node longer than the graph around it
        b"\x38\x01",  # a number where the graph must stand
        b"\x00\x00",
    ],
)
def test_bytes_that_break_the_wire_format_are_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        judge(raw)


def test_a_flood_of_nodes_ends_soon(place: Path) -> None:
    graph = b"\x0a\x00" * 5_000_000  # nodes of two bytes each: gigabytes once a library has them
    size = len(graph)
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    (place / "m.onnx").write_bytes(b"\x08\x09\x3a" + length + graph)
    ends(place / "m.onnx", UsageError, "more than 100000 nodes")


@pytest.mark.parametrize(
    ("domain", "operator"),
    [
        ("ai.onnx.contrib", "PyOp"), ("trt.plugins", "Mine"), ("own", "Mine"),
        ("com.microsoft", "EPContext"), ("com.microsoft", "PythonOp"),
    ],
)  # fmt: skip
def test_operators_that_need_foreign_code_are_refused(domain: str, operator: str) -> None:
    model = sound()
    model.graph.node[1].domain, model.graph.node[1].op_type = domain, operator
    with pytest.raises(Refused, match=operator):
        judge(model)


def test_operators_that_the_file_itself_defines_are_sound(place: Path) -> None:
    found = preflight(save(crafted.calling({"f": ["g", "g"], "g": []}), place / "m.onnx"))
    assert found.load_error == ""


def test_an_operator_under_the_name_of_a_function_of_another_domain_is_refused() -> None:
    model = crafted.calling({"f": []})
    model.graph.node[0].domain = "elsewhere"
    with pytest.raises(Refused, match="elsewhere"):
        judge(model)


def test_settings_of_the_runtime_inside_a_model_are_refused() -> None:
    model = sound()
    helper.set_model_props(model, {"ort_config": '{"session_options": {}}'})
    with pytest.raises(Refused, match="settings of the runtime"):
        judge(model)


def test_constants_that_swell_at_load_end_soon(place: Path) -> None:
    """Under a kilobyte of nodes that fold to 2.7 GB, none of them over the runtime's own
    limit for one."""
    ends(save(crafted.swelling(3, 15_000), place / "m.onnx"), UsageError, "memory", load=True)


def test_what_onnxruntime_cannot_load_is_left_to_the_target(place: Path) -> None:
    model = sound()
    model.graph.node[1].op_type = "NoSuchOperator"
    assert "NoSuchOperator" in preflight(save(model, place / "m.onnx")).load_error


def test_a_looking_process_that_takes_too_long_is_ended(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_LOOK", 1)
    (place / "m.onnx").write_bytes(b"\x08\x09" * 5_000_000)
    with pytest.raises(UsageError, match=r"took more than 1 s|did not end within 4 s"):
        preflight(place / "m.onnx", load=False)


def test_a_missing_file_is_bad_input(place: Path) -> None:
    ends(place / "none.onnx", UsageError, "no ONNX file")


def test_hostile_names_in_refusals_stay_on_one_line(place: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        preflight(save(outside("../\x1b[2J\nx"), place / "m.onnx"), load=False)
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


def test_every_model_of_onnx_s_own_tests_is_sound() -> None:
    """No false alarm on what exporters and the standard's authors write."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    files = sorted(folder.glob("[!n]*/*/model.onnx"))  # those of single nodes are alike
    if not files:
        pytest.skip("this onnx comes without its test models")
    for path in files:
        judge(path.read_bytes())


def test_every_type_of_element_is_measured_as_onnx_stores_it() -> None:
    for kind in TensorProto.DataType.values():
        if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        for raw in (False, True):
            model = sound()
            values = np.ones(5, helper.tensor_dtype_to_np_dtype(kind))
            if raw:
                tensor = numpy_helper.from_array(values, "t")
            else:
                tensor = helper.make_tensor("t", kind, [5], values)
            model.graph.initializer.append(tensor)
            judge(model)
    model = sound()
    model.graph.initializer.append(numpy_helper.from_array(np.array(["a", "b"], dtype=object), "t"))
    model.graph.node[0].attribute.append(AttributeProto(name="empty"))
    judge(model)
