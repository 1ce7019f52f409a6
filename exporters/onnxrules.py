"""What the pre-flight asks of an ONNX file: sizes that its bytes bear out, nothing from elsewhere.

Malformed is what no exporter writes; refused is what reaches beyond the file and its folder:
weights elsewhere, compiled code, operators that are not onnxruntime's own, settings of the runtime.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mpo.exporters.wire import Frame, Malformed, Reader

# Bits of an element, by TensorProto.DataType; a string (8) has none.
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
    27: 6, 28: 6,
}  # fmt: skip
STRING = 8
# Field and entries an element of what is neither raw nor int32_data.
TYPED = {1: (4, 1), 14: (4, 2), 7: (7, 1), 11: (10, 1), 15: (10, 2), 12: (11, 1), 13: (11, 1)}
INT32_DATA, STRING_DATA, RAW = 5, 6, 9
KEYS = {"location", "offset", "length", "checksum", "basepath"}
# Of these onnxruntime has the operators itself; those of other domains come in libraries.
DOMAINS = {
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training",
    "com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc",
}  # fmt: skip
# Nodes that hold compiled code, name a file of it, or name a Python function.
CODE = {"EPContext", "PythonOp", "PythonOpGrad"}
SETTINGS = "ort_config"  # onnxruntime takes its session options from this entry when told to

Call = tuple[str, str, str]


class Refused(Exception):
    """It reaches for what it must not have."""


@dataclass(frozen=True)
class Bounds:
    """How much a file may declare.

    Attributes:
        nodes: with all functions unfolded.
        depth: of graphs in graphs, of types in types.
        calls: of functions in functions.
        name_bytes: of one name.
        input_bytes: of one input with its fixed axes.
        value_bytes: of any other value with its fixed axes; what a sparse tensor unfolds to.
    """

    nodes: int = 100_000
    depth: int = 16
    calls: int = 64
    name_bytes: int = 65_536
    input_bytes: int = 4 * 2**30
    value_bytes: int = 2**40


@dataclass
class Look:
    """What was seen: counts, and the weights in other files.

    Attributes:
        nodes: as the file has them.
        tensors: constants of any kind.
        external: (offset, bytes) of the weights in each other file; offset and bytes as declared.
        foreign: domains that are not onnxruntime's own, with an operator of each.
    """

    nodes: int = 0
    tensors: int = 0
    external: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    foreign: dict[Call, None] = field(default_factory=dict)


def look(data: bytes, bounds: Bounds) -> Look:
    """Judge a ModelProto.

    Raises:
        Malformed: no model, or figures that contradict one another or the bounds.
        Refused: it reaches for what it must not have.
    """
    if not data:
        raise Malformed("it is empty")
    rules = _Rules(bounds)
    Reader(data, deepest=bounds.depth, longest=bounds.name_bytes).read(rules.finish)
    return rules.seen


class _Rules:
    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.seen = bounds, Look()
        self.functions: dict[Call, Counter[Call]] = {}
        self._judges = {
            "Model": self._model, "Entry": _entry, "Function": self._function, "Node": self._node,
            "Tensor": self._tensor, "Sparse": self._sparse, "Value": self._value,
            "Type": _hand_up, "TensorType": _hand_up, "Shape": _hand_up, "Axis": _axis,
        }  # fmt: skip

    def finish(self, frame: Frame) -> None:
        """Judge a message that has ended."""
        judge = self._judges.get(frame.kind)
        if judge is not None:
            judge(frame)

    def _node(self, node: Frame) -> None:
        self.seen.nodes += 1
        if self.seen.nodes > self.bounds.nodes:
            raise Malformed(f"it has more than {self.bounds.nodes} nodes")
        domain, operator = node.texts.get(7, ""), node.texts.get(4, "")
        if domain.startswith("com.microsoft") and operator in CODE:
            raise Refused(f"its node {operator} holds, or names, compiled code or a script")
        call = ("" if domain == "ai.onnx" else domain, operator, node.texts.get(8, ""))
        _owner(node).calls[call] += 1
        if domain not in DOMAINS:
            self.seen.foreign[call] = None

    def _function(self, function: Frame) -> None:
        domain = function.texts.get(10, "")
        name, overload = function.texts.get(1, ""), function.texts.get(13, "")
        key = ("" if domain == "ai.onnx" else domain, name, overload)
        if key in self.functions:
            raise Malformed(f"it defines the function {name!r} twice")
        self.functions[key] = function.calls

    def _model(self, model: Frame) -> None:
        if not model.numbers.get(1) or 7 not in model.counts:
            raise Malformed("it is no ONNX model")
        if not self.seen.nodes:
            raise Malformed("it is an ONNX model without nodes")
        if any(key == SETTINGS for number, key, _ in model.entries if number == 14):
            raise Refused(f"it carries settings of the runtime ({SETTINGS})")
        for call in self.seen.foreign:
            if call not in self.functions:
                raise Refused(
                    f"its operator {call[1]!r} of the domain {call[0]!r} is none of onnxruntime's "
                    "own and would need a library of native code"
                )
        unfolded = self._unfolded(model.calls)
        if unfolded > self.bounds.nodes:
            raise Malformed(f"its functions unfold to more than {self.bounds.nodes} nodes")

    def _unfolded(self, calls: Counter[Call]) -> int:
        """Nodes of the model once every function stands where it is called."""
        sizes: dict[Call, int] = {}
        start: Call = ("", "", "the model")
        known = {**self.functions, start: calls}
        path: dict[Call, None] = {}
        pending = [start]
        while pending:
            one = pending[-1]
            if one in sizes:
                pending.pop()
                continue
            inner = [call for call in known[one] if call in self.functions]
            open_ones = [call for call in inner if call not in sizes]
            if not open_ones:
                sizes[one] = min(
                    sum(n * sizes.get(call, 1) for call, n in known[one].items()),
                    self.bounds.nodes + 1,
                )
                path.pop(one, None)
                pending.pop()
                continue
            path[one] = None
            if any(call in path for call in open_ones):
                raise Malformed(f"its function {open_ones[0][1]!r} calls itself")
            if len(path) > self.bounds.calls:
                raise Malformed(f"functions call one another more than {self.bounds.calls} deep")
            pending.append(open_ones[0])
        return sizes[start]

    def _tensor(self, tensor: Frame) -> None:
        self.seen.tensors += 1
        elements, kind = _elements(tensor), tensor.numbers.get(2, 0)
        held = {number: count for number, count in tensor.counts.items() if count}
        entries = [(key, value) for number, key, value in tensor.entries if number == 13]
        outside = tensor.numbers.get(14, 0)
        if kind != STRING and kind not in BITS:
            raise Malformed(f"a tensor has the unknown type {kind}")
        if outside not in (0, 1) or bool(entries) != bool(outside):
            raise Malformed("a tensor contradicts itself about where its values lie")
        if tensor.parent and tensor.parent.kind == "Sparse":
            tensor.parent.numbers[100 + tensor.number] = elements
        if outside:
            if held or kind == STRING:
                raise Malformed("a tensor has its values here and in another file")
            self._outside(dict(entries), len(entries), _bytes(elements, kind))
            return
        wanted = {number: count for number, count in _held(elements, kind, held).items() if count}
        if held != wanted:
            raise Malformed(
                f"a tensor of {elements} elements holds {sum(held.values())} bytes or values where "
                f"{sum(wanted.values())} must stand"
            )

    def _outside(self, entries: Mapping[str, str], given: int, wanted: int) -> None:
        if given != len(entries) or set(entries) - KEYS:
            raise Refused(f"a tensor describes its file by {sorted(entries)!r:.200}")
        location = entries.get("location", "")
        if not location:
            raise Malformed("a tensor lies in another file that it does not name")
        offset = _count(entries.get("offset", "0"))
        length = _count(entries.get("length", str(wanted)))
        if length != wanted:
            raise Malformed(f"a tensor of {wanted} bytes takes {length} from another file")
        self.seen.external.setdefault(location, []).append((offset, length))

    def _sparse(self, sparse: Frame) -> None:
        dense, held = _elements(sparse), sparse.numbers.get(101, 0)
        if held > dense or 8 * dense > self.bounds.value_bytes // 64:
            raise Malformed(f"a sparse tensor of {held} values unfolds to {dense}")

    def _value(self, value: Frame) -> None:
        kind = value.numbers.get(1, 0)
        axes = [size for size in value.dims if 0 < size < 2**63]
        size = math.prod(axes) * BITS.get(kind, 8) // 8
        given = value.number == 11
        most = self.bounds.input_bytes if given else self.bounds.value_bytes
        if size > most:
            what = "an input" if given else "a value"
            raise Malformed(f"{what} of {size:.3g} bytes; {most} are allowed")


def _owner(frame: Frame) -> Frame:
    """The model or function that a node belongs to."""
    while frame.parent is not None and frame.kind != "Function":
        frame = frame.parent
    return frame


def _entry(entry: Frame) -> None:
    if entry.parent is not None:
        found = (entry.number, entry.texts.get(1, ""), entry.texts.get(2, ""))
        entry.parent.entries.append(found)


def _axis(axis: Frame) -> None:
    if axis.parent is not None:
        axis.parent.dims.append(axis.numbers.get(1, 0))


def _hand_up(frame: Frame) -> None:
    """A type's axes and element type belong to the value that is of it."""
    if frame.parent is not None and frame.parent.kind in ("TensorType", "Type", "Value"):
        frame.parent.dims += frame.dims
        frame.parent.numbers.update(frame.numbers)


def _elements(frame: Frame) -> int:
    elements = 1
    for size in frame.dims:
        if size >= 2**63:
            raise Malformed("a tensor has an axis of negative size")
        elements = min(elements * size, 2**63)
    return elements


def _bytes(elements: int, kind: int) -> int:
    return -(-elements * BITS[kind] // 8)


def _held(elements: int, kind: int, held: Mapping[int, int]) -> dict[int, int]:
    """What a tensor must hold, by field number, given that it holds raw bytes or not."""
    if kind == STRING:
        return {STRING_DATA: elements}
    if RAW in held:
        return {RAW: _bytes(elements, kind)}
    if kind in TYPED:
        number, each = TYPED[kind]
        return {number: elements * each}
    return {INT32_DATA: _bytes(elements, kind) if BITS[kind] in (2, 4) else elements}


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise Malformed(f"a tensor begins, or ends, at {text!r:.60} of another file")
    return int(text)
