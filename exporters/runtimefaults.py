"""What ONNX Runtime raises, and its words in one line."""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as states

# The runtime's exceptions have no common base class of their own.
RUNTIME_ERRORS = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NoSuchFile,
    states.NotImplemented,
    states.RuntimeException,
)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, cut to 300 characters."""
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
