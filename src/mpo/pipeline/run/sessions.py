"""The session stage: with a memory budget, the runtime's options that lower the peak, by
measurement on every target."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from mpo.exporters.onnx import export_onnx
from mpo.pipeline.run.context import Context
from mpo.pipeline.run.inputs import deployed, example, feeds
from mpo.pipeline.run.saved import read, save
from mpo.profiles.sessions import THRESHOLD, choose_session
from mpo.records import Record, SessionChoice


class SessionChoices(Record):
    """The choice for every target, the first one first."""

    choices: tuple[SessionChoice, ...]


def with_sessions(context: Context) -> Context:
    """The context with every place's options chosen; the defaults without a memory budget."""
    wanted = any(budget.metric == "memory_bytes" for budget in context.recipe.budgets())
    if not wanted:
        return context

    def make(folder: Path) -> None:
        save(choose(context), folder / "sessions.json")

    folder = context.folder.stage("session", context.base_key, make)
    chosen = [one.session for one in read(SessionChoices, folder / "sessions.json").choices]
    # One pair of files goes to all targets, so weights lie beside the graph for all or for none.
    beside = any(session.external_weights for session in chosen)
    places = tuple(
        place.running(
            session.model_copy(
                update={
                    "external_weights": beside,
                    "mmap_threshold_bytes": session.mmap_threshold_bytes or THRESHOLD,
                }
            )
        )
        for place, session in zip(context.places, chosen, strict=True)
    )
    return replace(context, places=places)


def choose(context: Context) -> SessionChoices:
    """Export the original with its weights inside and beside, and try the options on every
    target."""
    found = list[SessionChoice]()
    with tempfile.TemporaryDirectory(prefix="mpo-session-") as name:
        inline, mapped = Path(name) / "inline.onnx", Path(name) / "mapped.onnx"
        for path in (inline, mapped):
            export_onnx(
                context.original,
                *example(context),
                path,
                opset=context.recipe.opset,
                varying=context.varying,
                external_data=path is mapped,
            )
        inputs = feeds(inline, deployed(context))
        for place in context.places:
            context.progress("choose runtime options", len(found), len(context.places))
            found.append(
                choose_session(
                    place.target,
                    inline,
                    inputs,
                    threads=place.session.threads,
                    wants_memory=True,
                    mapped=mapped,
                    seconds=context.measuring.session,
                )
            )
        context.progress("choose runtime options", len(found), len(found))
    return SessionChoices(choices=tuple(found))
