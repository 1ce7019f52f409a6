"""What a verb shows of its progress when nobody asks: nothing."""

from __future__ import annotations


def silent(what: str, done: int, total: int) -> None:
    """A progress that shows nothing."""
