"""Names of blocks, files and devices, made fit to be shown: cleaned, shortened, joined.

Names come from models and files, so they are untrusted: `clean` takes out what could steer a
terminal or turn the reading direction. Escaping for Markdown and HTML is left to those views.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_NUMBERED = re.compile(r"(.*?)([0-9]{1,9})([^0-9]*)", re.DOTALL)


def clean(text: str) -> str:
    """Take out control, format (bidirectional, zero-width) and surrogate characters.

    Line ends and tabs become spaces.
    """
    flat = re.sub(r"[\t\r\n\v\f\x85\u2028\u2029]+", " ", text)
    return "".join(c for c in flat if unicodedata.category(c) not in {"Cc", "Cf", "Cs"})


def shorten(text: str, width: int) -> str:
    """Keep the start and the end of a text that is longer than `width` characters."""
    text = clean(text)
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def compact_names(names: Iterable[str], limit: int | None = None) -> str:
    """layer1.1, layer1.2, layer1.3, layer2.3 -> "layer1.1-3, layer2.3"; no names -> "none".

    Args:
        names: block names; those that differ in their last number only are joined.
        limit: how many entries to print before "and N more" (N counts entries).
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for name in map(clean, names):
        match = _NUMBERED.fullmatch(name)
        if match and str(int(match[2])) == match[2]:
            groups.setdefault((match[1], match[3]), []).append(int(match[2]))
        else:
            groups.setdefault((name, ""), [])
    entries: list[str] = []
    for (start, end), numbers in groups.items():
        entries += [f"{start}{run}{end}" for run in _runs(numbers)] if numbers else [start]
    if limit is not None and len(entries) > limit:
        entries = [*entries[:limit], f"and {len(entries) - limit} more"]
    return ", ".join(entries) or "none"


def common_ends(names: Sequence[str]) -> tuple[str, str]:
    """What all names begin and end with, cut at dots: l.0.mlp, l.1.mlp -> "l.", ".mlp"."""
    if len(names) < 2:
        return "", ""
    first, last = min(names), max(names)
    start = first[: first.rfind(".", 0, _same(first, last)) + 1]
    turned = sorted(name[len(start) :][::-1] for name in names)
    end = turned[0][: _same(turned[0], turned[-1])][::-1]
    end = end[end.find(".") :] if "." in end else ""
    return start, "" if any(len(name) <= len(start) + len(end) for name in names) else end


def _same(first: str, last: str) -> int:
    pairs = enumerate(zip(first, last, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))


def _runs(numbers: Sequence[int]) -> list[str]:
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
