"""What a subject file declares for the files made from it: labels and preprocessing."""

from __future__ import annotations

import json
from typing import Any

from mpo.errors import UsageError


def declared_labels(given: Any) -> tuple[str, ...]:
    """The subject's `labels`: a list of texts.

    Raises:
        UsageError: anything else.
    """
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) for one in given):
        raise UsageError(
            f"labels is a {type(given).__name__}, no list of texts.",
            hint='Write labels = ["cat", "dog"], in the order of the outputs.',
        )
    return tuple(given)


def declared_preprocessing(given: Any) -> dict[str, Any]:
    """The subject's `preprocessing`: a dict of what JSON holds.

    Raises:
        UsageError: anything else.
    """
    try:
        if isinstance(given or {}, dict):
            return dict(json.loads(json.dumps(given or {}, allow_nan=False)))
    except (TypeError, ValueError):
        pass
    raise UsageError(
        "preprocessing is no dict of texts, numbers and lists.",
        hint='Write preprocessing = {"mean": [0.5], "std": [0.25], "layout": "NCHW"}.',
    )
