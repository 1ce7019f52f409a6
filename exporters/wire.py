"""An ONNX file as raw bytes: one pass over protobuf's wire format that keeps counts, no messages.

The pass has a stack of its own, so no nesting exhausts it, and holds one frame a level: a file of
any shape costs time in proportion to its fields and next to no memory. It is stricter than the
libraries: what one would merge, skip or take for an unknown field, and another not, is malformed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# What is looked at, message by message, with the numbers of onnx.proto. A capital names a message
# (with * when it may stand there once only), "int" and "ints" numbers (the latter packed or not),
# "text" a name, "long" a text of which only the start counts, "bytes" one of several byte strings,
# "raw" the only one; "f4", "f8" and "varints" elements of a tensor, which are counted.
FIELDS: Mapping[str, Mapping[int, str]] = {
    "Model": {1: "int", 7: "Graph*", 8: "Opset", 14: "Entry", 20: "Training", 25: "Function"},
    "Opset": {1: "text", 2: "int"},
    "Entry": {1: "text", 2: "long"},
    "Training": {1: "Graph*", 2: "Graph*", 3: "Entry", 4: "Entry"},
    "Graph": {
        1: "Node", 2: "text", 5: "Tensor", 11: "Value", 12: "Value", 13: "Value", 15: "Sparse",
        16: "Entry",
    },
    "Function": {
        1: "text", 7: "Node", 9: "Opset", 10: "text", 11: "Attribute", 12: "Value", 13: "text",
        14: "Entry",
    },
    "Node": {3: "text", 4: "text", 5: "Attribute", 7: "text", 8: "text", 9: "Entry"},
    "Attribute": {
        1: "text", 5: "Tensor*", 6: "Graph*", 10: "Tensor", 11: "Graph", 14: "Type*", 15: "Type",
        20: "int", 22: "Sparse*", 23: "Sparse",
    },
    "Tensor": {
        1: "ints", 2: "int", 4: "f4", 5: "varints", 6: "bytes", 7: "varints", 8: "text", 9: "raw",
        10: "f8", 11: "varints", 13: "Entry", 14: "int", 16: "Entry",
    },
    "Sparse": {1: "Tensor*", 2: "Tensor*", 3: "ints"},
    "Value": {1: "text", 2: "Type*", 4: "Entry"},
    "Type": {1: "TensorType*", 4: "Sequence*", 5: "Map*", 8: "TensorType*", 9: "Sequence*"},
    "TensorType": {1: "int", 2: "Shape*"},
    "Sequence": {1: "Type*"},
    "Map": {1: "int", 2: "Type*"},
    "Shape": {1: "Axis"},
    "Axis": {1: "int", 2: "text"},
}  # fmt: skip
NESTING = ("Graph", "Type")
MOST_AXES = 64
PIECE = 1 << 20
_TAILS = bytes(range(128, 256))  # bytes of a packed number that are not its last


class Malformed(Exception):
    """No model that a library should see."""


@dataclass(slots=True)
class Frame:
    """A message while it is read.

    Attributes:
        kind: a key of FIELDS.
        end: the offset behind its last byte.
        parent: the message around it; None for the model.
        number: of the field that holds it in its parent.
        levels: graphs and types around it, itself included.
        numbers: its integers by field number, the last one each.
        texts: its texts likewise.
        counts: elements by field number, bytes for a raw field.
        dims: sizes of axes, as the file has them.
        entries: key and value of the entries inside it, by the number of their field.
        calls: domain, operator and overload of the nodes inside a model or a function.
    """

    kind: str
    end: int
    parent: Frame | None = None
    number: int = 0
    levels: int = 0
    numbers: dict[int, int] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    dims: list[int] = field(default_factory=list)
    entries: list[tuple[int, str, str]] = field(default_factory=list)
    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class Reader:
    """One pass over a ModelProto.

    Args:
        data: its bytes: `bytes` or a memory map.
        deepest: graphs and types that may lie in one another.
        longest: bytes of a name.
    """

    def __init__(self, data: bytes, *, deepest: int, longest: int) -> None:
        self._data, self._deepest, self._longest = data, deepest, longest
        self._at = 0

    def read(self, finish: Callable[[Frame], None]) -> None:
        """Read all of it; `finish` gets every message when it has ended, inner ones first.

        Raises:
            Malformed: cut off, wrong types, nested too deeply.
        """
        stack = [Frame("Model", len(self._data))]
        while stack:
            top = stack[-1]
            if self._at == top.end:
                stack.pop()
                finish(top)
            else:
                entered = self._field(top)
                if entered is not None:
                    stack.append(entered)

    def _varint(self, end: int) -> int:
        data, at = self._data, self._at
        value = shift = 0
        while at < end and shift <= 63:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self._at = at
                return value & 0xFFFF_FFFF_FFFF_FFFF
            shift += 7
        raise Malformed("it has a number that does not end")

    def _field(self, top: Frame) -> Frame | None:
        """Read one field; the frame of the message that begins with it, if one does."""
        key = self._varint(top.end)
        number, wire = key >> 3, key & 7
        meaning = FIELDS[top.kind].get(number)
        if not 0 < number < 1 << 29:
            raise Malformed(f"it has a field of the number {number}")
        if wire == 2:
            return self._block(top, number, meaning, self._varint(top.end))
        if wire == 0:
            _number(top, number, meaning, self._varint(top.end))
            return None
        width = {1: 8, 5: 4}.get(wire)
        if width is None:
            raise Malformed(f"it has a field of the wire type {wire}")
        self._skip(width, top.end)
        if meaning is not None:
            _expect(meaning == f"f{width}", top, number)
            top.counts[number] += 1
        return None

    def _skip(self, length: int, end: int) -> int:
        """Go on by so many bytes; where they begin."""
        start = self._at
        if length > end - start:
            raise Malformed(f"it is cut off: {length} bytes announced where {end - start} are left")
        self._at = start + length
        return start

    def _block(self, top: Frame, number: int, meaning: str | None, length: int) -> Frame | None:
        """A field with a length: a message, a text, bytes, or packed numbers."""
        start = self._skip(length, top.end)
        if meaning is None:
            return None
        if meaning[0].isupper():
            self._at = start
            return self._enter(top, number, meaning, start + length)
        if meaning in ("text", "long"):
            top.texts[number] = self._text(start, length, meaning)
        elif meaning in ("bytes", "raw"):
            _expect(meaning == "bytes" or number not in top.counts, top, number)
            top.counts[number] += length if meaning == "raw" else 1
        elif meaning == "ints":
            self._at = start
            while self._at < start + length:
                _number(top, number, meaning, self._varint(start + length))
        elif meaning == "varints":
            top.counts[number] += self._packed(start, start + length)
        else:
            _expect(meaning in ("f4", "f8") and length % int(meaning[1]) == 0, top, number)
            top.counts[number] += length // int(meaning[1])
        return None

    def _enter(self, top: Frame, number: int, meaning: str, end: int) -> Frame:
        kind = meaning.rstrip("*")
        if meaning.endswith("*"):
            # Libraries merge a message that stands there twice, each in its own way.
            _expect(number not in top.counts, top, number)
            top.counts[number] = 1
        levels = top.levels + (kind in NESTING)
        if levels > self._deepest:
            raise Malformed(f"graphs or types lie in one another more than {self._deepest} deep")
        return Frame(kind, end, top, number, levels)

    def _text(self, start: int, length: int, meaning: str) -> str:
        if meaning == "text" and length > self._longest:
            raise Malformed(f"it has a name of {length} bytes")
        try:
            return str(self._data[start : start + min(length, self._longest)], "utf-8")
        except UnicodeDecodeError as error:
            if meaning == "long":  # may be cut within a character
                return str(
                    self._data[start : start + min(length, self._longest)], "utf-8", "replace"
                )
            raise Malformed("it has a name that is no UTF-8") from error

    def _packed(self, start: int, end: int) -> int:
        """How many numbers a packed field holds, a piece at a time."""
        found = 0
        for place in range(start, end, PIECE):
            found += len(self._data[place : min(place + PIECE, end)].translate(None, _TAILS))
        if end > start and self._data[end - 1] >= 0x80:
            raise Malformed("it has a number that does not end")
        return found


def _number(top: Frame, number: int, meaning: str | None, value: int) -> None:
    if meaning == "int":
        top.numbers[number] = value
    elif meaning == "ints":
        top.dims.append(value)
        if len(top.dims) > MOST_AXES:
            raise Malformed(f"it has a tensor of more than {MOST_AXES} axes")
    elif meaning == "varints":
        top.counts[number] += 1
    else:
        _expect(meaning is None, top, number)


def _expect(right: bool, top: Frame, number: int) -> None:
    if not right:
        raise Malformed(f"field {number} of a {top.kind} is of another type, or stands there twice")
