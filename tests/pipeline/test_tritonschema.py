"""The Triton view's config.pbtxt through protobuf's own text parser.

Triton's schema is not in the repository. The table below has the fields that mpo writes, with the
numbers and types of inference.ModelConfig in tritonclient 2.73.0, and no others: an unknown field,
a value of another type or an enum's name that Triton has not fails to parse.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from mpo.pipeline.bundle.views import LARGEST_BATCH, TRITON, triton_config
from mpo.records import BundleTensor
from tests.bundle.small import manifest, parts

TYPES = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
ENUMS = {
    "DataType": [f"TYPE_{name}" for name in TYPES.split()],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
}
# Message -> field -> number and type; "*" marks a repeated one.
FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "ModelConfig": {
        "name": (1, "string"), "max_batch_size": (4, "int32"), "input": (5, "*ModelInput"),
        "output": (6, "*ModelOutput"), "instance_group": (7, "*ModelInstanceGroup"),
        "default_model_filename": (8, "string"), "dynamic_batching": (11, "Batching"),
        "parameters": (14, "*Parameter"), "backend": (17, "string"),
    },
    "ModelInput": {
        "name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "*int64"),
        "reshape": (5, "Reshape"),
    },
    "ModelOutput": {
        "name": (1, "string"), "data_type": (2, "DataType"), "dims": (3, "*int64"),
        "reshape": (5, "Reshape"),
    },
    "ModelInstanceGroup": {"count": (2, "int32"), "kind": (4, "Kind")},
    "Reshape": {"shape": (1, "*int64")},
    "Batching": {},
    "Parameter": {"key": (1, "string"), "value": (2, "Value")},  # an entry of a map
    "Value": {"string_value": (1, "string")},
}  # fmt: skip
PLAIN = {"string": 9, "int32": 5, "int64": 3}


@pytest.fixture(scope="module")
def schema() -> Any:
    """The class of Triton's ModelConfig, as far as the table tells."""
    file = descriptor_pb2.FileDescriptorProto(name="told.proto", package="told", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            one = message.field.add(name=field, number=number, label=3 if kind[0] == "*" else 1)
            kind = kind.lstrip("*")
            one.type = PLAIN.get(kind, 14 if kind in ENUMS else 11)
            if kind not in PLAIN:
                one.type_name = f".told.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("told.ModelConfig"))


def parsed(schema: Any, **changes: Any) -> Any:
    """What Triton's parser reads of a bundle's configuration."""
    return text_format.Parse(triton_config(manifest(parts(), **changes)), schema())


def test_triton_s_schema_reads_what_the_manifest_says(schema: Any) -> None:
    told = parsed(schema)
    assert (told.name, told.backend, told.max_batch_size) == ("small", "onnxruntime", LARGEST_BATCH)
    assert [(one.name, list(one.dims)) for one in told.input] == [("x", [2])]
    assert [(one.name, list(one.dims)) for one in told.output] == [("y", [3])]
    assert told.HasField("dynamic_batching")
    assert [one.kind for one in told.instance_group] == [ENUMS["Kind"].index("KIND_CPU")]
    (one,) = told.parameters
    assert (one.key, one.value.string_value.isdigit()) == ("intra_op_thread_count", True)


@pytest.mark.parametrize("dtype", sorted(TRITON))
def test_every_type_that_is_written_is_one_of_triton_s(dtype: str, schema: Any) -> None:
    told = parsed(schema, inputs=(BundleTensor(name="x", dtype=dtype, shape=("n",)),))
    (one,) = told.input
    assert ENUMS["DataType"][one.data_type] == f"TYPE_{TRITON[dtype]}"
    assert (list(one.dims), one.HasField("reshape"), list(one.reshape.shape)) == ([1], True, [])


@pytest.mark.parametrize("name", ['x" } ] backend: "a', "\\", "a\nb", "größe\0"])
def test_odd_names_come_back_as_they_are(name: str, schema: Any) -> None:
    told = parsed(schema, inputs=(BundleTensor(name=name, dtype="float32", shape=("n", 2)),))
    assert [one.name for one in told.input] == [name]
    assert told.backend == "onnxruntime"
