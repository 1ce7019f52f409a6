"""mpo: give it a trained model, its data and a budget; get back a smaller model that is measured
to fit.

The verbs of the command line are functions here. Nothing heavy is imported until one is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpo.api.benching import bench
    from mpo.api.contracts import contract, decompose
    from mpo.api.exporting import export
    from mpo.api.packing import package
    from mpo.api.runs import analyze, load, optimize, plan
    from mpo.bundle.whole import verify
    from mpo.optimizer.data.splits import Data
    from mpo.optimizer.data.subject import Subject
    from mpo.pipeline.run.rebuilt import read_report

__version__ = "0.1.0"
__all__ = [
    "Data",
    "Subject",
    "__version__",
    "analyze",
    "bench",
    "contract",
    "decompose",
    "export",
    "load",
    "optimize",
    "package",
    "plan",
    "read_report",
    "verify",
]

_HOMES = {
    "Data": "mpo.optimizer.data.splits",
    "Subject": "mpo.optimizer.data.subject",
    "analyze": "mpo.api.runs",
    "bench": "mpo.api.benching",
    "contract": "mpo.api.contracts",
    "decompose": "mpo.api.contracts",
    "export": "mpo.api.exporting",
    "load": "mpo.api.runs",
    "optimize": "mpo.api.runs",
    "package": "mpo.api.packing",
    "plan": "mpo.api.runs",
    "read_report": "mpo.pipeline.run.rebuilt",
    "verify": "mpo.bundle.whole",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mpo' has no attribute {name!r}")
