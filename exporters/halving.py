"""The graph surgery behind fp16 and bf16: which values are narrow, and casts where they meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mpo.exporters.converted import bodies, exposing, open_session

Width = Literal["float", "half"]
# Nodes that make values of a type that an attribute names; few, cheap, and left as they are.
MAKERS = frozenset(
    {
        "Bernoulli", "BlackmanWindow", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix",
        "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Half:
    """A 16-bit type: its ONNX number, largest finite value, and relative step."""

    type: int
    largest: float
    step: float

    @property
    def label(self) -> str:
        """The short name: fp16 or bf16."""
        return "fp16" if self.type == TensorProto.FLOAT16 else "bf16"

    def rounded(self, array: NDArray[np.float32]) -> NDArray[Any]:
        """The array in this type."""
        kind = np.float16 if self.type == TensorProto.FLOAT16 else ml_dtypes.bfloat16
        with np.errstate(over="ignore"):
            return array.astype(kind)

    def misfit(self, name: str, array: NDArray[np.float32]) -> str:
        """Why a weight cannot be rounded: beyond the range, or lost below it; "" when it can."""
        finite = np.abs(array[np.isfinite(array)])
        peak = float(finite.max(initial=0.0))
        if peak > self.largest:
            return f"{name} holds {peak:.3g}, half holds {self.largest:g}"
        norm = float(np.linalg.norm(finite.astype(np.float64)))
        back = np.abs(self.rounded(finite).astype(np.float64) - finite)
        if norm > 0 and float(np.linalg.norm(back)) > 2 * self.step * norm:
            return f"{name} is lost in half: it reaches {peak:.3g}"
        return ""


def kinds_of(model: ModelProto) -> dict[str, str]:
    """Type of every input and every node's output as the runtime sees it: "float", "int64"."""
    names = [name for node in model.graph.node for name in node.output if name]
    session = open_session(exposing(model, names), optimize=False)
    found = [*session.get_inputs(), *session.get_outputs()]
    kinds = {item.name: str(item.type).removeprefix("tensor(").rstrip(")") for item in found}
    return {name: "seq" if "(" in kind else kind for name, kind in kinds.items()}


def halve(
    model: ModelProto,
    half: Half,
    kinds: Mapping[str, str],
    keep: Mapping[str, str],
    *,
    emulate: bool = False,
) -> ModelProto:
    """The model with float32 values narrowed, save beside the nodes in `keep` and at the borders.

    Args:
        kinds: types of the values, from `kinds_of`.
        keep: names of nodes that compute in float32.
        emulate: compute in float32, but pass every value that would be narrow through a narrow
            cast and back: what hardware that adds up in float32 gives, on any machine.
    """
    return _Halver(model, half, kinds, keep, emulate=emulate).made()


class _Halver:
    """One conversion: nodes are taken in order; a cast is put in where a value is first needed in
    the other width."""

    def __init__(
        self,
        model: ModelProto,
        half: Half,
        kinds: Mapping[str, str],
        keep: Mapping[str, str],
        *,
        emulate: bool,
    ) -> None:
        self.model, self.half, self.keep, self.emulate = ModelProto(), half, keep, emulate
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.weights = {
            weight.name: weight
            for weight in self.graph.initializer
            if weight.data_type == TensorProto.FLOAT
        }
        self.floats = {name for name, kind in kinds.items() if kind == "float"}
        self.outputs = {value.name for value in self.graph.output}
        self.sequences = {name for name, kind in kinds.items() if kind == "seq"}
        self.names: dict[tuple[str, Width], str] = {}
        self.nodes: list[NodeProto] = []
        self.used: dict[str, TensorProto] = {}

    def made(self) -> ModelProto:
        """The converted model."""
        for value in self.graph.input:
            self.names[value.name, "float"] = value.name
        for node in list(self.graph.node):
            self._take(node)
        plain = [weight for weight in self.graph.initializer if weight.name not in self.weights]
        for name in self.outputs & self.weights.keys():
            self._wide(name)
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend([*plain, *self.used.values()])
        self._restore_names()
        return self.model

    def _restore_names(self) -> None:
        """A weight that is only there in half keeps its own name."""
        only = {
            self.names[name, "half"]: name
            for name in self.weights
            if (name, "half") in self.names and (name, "float") not in self.names
        }
        for weight in self.graph.initializer:
            weight.name = only.get(weight.name, weight.name)
        for node in self.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = only.get(name, name)

    def _take(self, node: NodeProto) -> None:
        sides = self._widths(node)
        for place, name in enumerate(node.input):
            if name in self.floats or name in self.weights:
                node.input[place] = self._as(name, sides[0][place])
        for body in bodies(node):
            self._take_body(body)
        after = []
        for place, name in enumerate(node.output):
            if name in self.floats:
                after += self._produce(node, place, sides[1][place])
        if "half" in (*sides[0], *sides[1]) and not self.emulate:
            _narrow_attributes(node, self.half)
        self.nodes += [node, *after]

    def _widths(self, node: NodeProto) -> tuple[list[Width], list[Width]]:
        """Per input and output the width it takes, as the operator's own schema allows."""
        wide: tuple[list[Width], list[Width]] = (
            ["float"] * len(node.input),
            ["float"] * len(node.output),
        )
        touched = {*node.input, *node.output}
        if node.name in self.keep or node.op_type in MAKERS or touched & self.sequences:
            return wide
        try:
            schema = onnx.defs.get_schema(
                node.op_type, self.opsets.get(node.domain, 1), node.domain
            )
        except onnx.defs.SchemaError:
            return wide
        if bodies(node):
            return wide
        kind = f"tensor({'float16' if self.half.label == 'fp16' else 'bfloat16'})"
        inputs = [_width(schema.inputs, place, kind) for place in range(len(node.input))]
        return inputs, [_width(schema.outputs, place, kind) for place in range(len(node.output))]

    def _take_body(self, body: GraphProto) -> None:
        """Inside an If or a Loop all stays float32: it sees wide values from outside."""
        made = {name for node in body.node for name in node.output}
        made |= {value.name for value in (*body.input, *body.initializer)}
        for node in body.node:
            for place, name in enumerate(node.input):
                if name not in made and (name in self.floats or name in self.weights):
                    node.input[place] = self._as(name, "float")
            for inner in bodies(node):
                self._take_body(inner)
        for value in body.output:
            if value.name not in made and (value.name in self.floats or value.name in self.weights):
                value.name = self._as(value.name, "float")

    def _as(self, name: str, width: Width) -> str:
        """The name under which a value is there in this width."""
        if (name, width) not in self.names:
            if name in self.weights:
                return self._wide(name) if width == "float" else self._narrow_weight(name)
            given: Width = "float" if width == "half" else "half"
            other = self.names[name, given]
            self.names[name, width] = f"{name}_{self.half.label if width == 'half' else 'fp32'}"
            self.nodes += self._casts(other, self.names[name, width], width)
        return self.names[name, width]

    def _wide(self, name: str) -> str:
        self.used[name] = self.weights[name]
        self.names[name, "float"] = name
        return name

    def _narrow_weight(self, name: str) -> str:
        narrow = self.half.rounded(numpy_helper.to_array(self.weights[name]))
        if self.emulate:
            narrow = narrow.astype(np.float32)
        own = f"{name}_{self.half.label}"
        self.used[own] = numpy_helper.from_array(narrow, own)
        self.names[name, "half"] = own
        return own

    def _produce(self, node: NodeProto, place: int, width: Width) -> list[NodeProto]:
        """Note a node's output; casts that must follow the node at once."""
        name = node.output[place]
        self.names[name, width] = name
        if width == "float":
            return []
        if self.emulate:
            node.output[place] = f"{name}_exact"
            self.names[name, "float"] = name  # rounded already
            return self._casts(node.output[place], name, "half")
        if name not in self.outputs:
            return []
        node.output[place] = self.names[name, "half"] = f"{name}_{self.half.label}"
        self.names[name, "float"] = name
        return self._casts(node.output[place], name, "float")

    def _casts(self, source: str, target: str, width: Width) -> list[NodeProto]:
        if not self.emulate:
            kind = TensorProto.FLOAT if width == "float" else self.half.type
            return [_cast(source, target, kind)]
        narrow = f"{target}_narrow"
        return [_cast(source, narrow, self.half.type), _cast(narrow, target, TensorProto.FLOAT)]


def _width(parameters: Any, place: int, kind: str) -> Width:
    formal = parameters[min(place, len(parameters) - 1)]  # the last one may be variadic
    return "half" if kind in formal.types else "float"


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"Cast_to_{target}", to=kind)


def _narrow_attributes(node: NodeProto, half: Half) -> None:
    """Types and tensors inside a node that follow its output: of Cast, Constant,
    ConstantOfShape."""
    for attribute in list(node.attribute):
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = half.type
        elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            narrow = half.rounded(numpy_helper.to_array(attribute.t))
            attribute.t.CopyFrom(numpy_helper.from_array(narrow, attribute.t.name))
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            plain = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            narrow = half.rounded(np.asarray(plain, np.float32))
            made = helper.make_attribute("value", numpy_helper.from_array(narrow))
            attribute.CopyFrom(made)
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(half.rounded(np.zeros(1, np.float32)))
        node.attribute.append(helper.make_attribute("value", zero))
