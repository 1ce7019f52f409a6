"""A run in small: stages, parts, results and a journal, with no model behind them. What it leaves
must be the same however often it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

from mpo.replacing import JOURNAL
from mpo.runfolder import RunFolder
from mpo.store import open_run

RECIPE = "a = 1\n"
OLD = "a = 0\n"


def tell(path: Path, recipe: str = RECIPE, *, overwrite: bool = False) -> None:
    """Run it, or go on with it."""
    with open_run(path, recipe, overwrite=overwrite) as run:
        first = run.stage("first", {"recipe": recipe}, lambda folder: _make(folder, recipe))
        second = run.stage("second", {}, lambda folder: _long(run, folder))
        run.stage("third", {}, lambda folder: _write(folder / "x", "short, and the last one"))
        run.place(first / "one.txt", "plan.json")
        run.write("report.json", json.dumps({"of": (second / "sum.txt").read_text()}))
        run.settle()


def snapshot(path: Path) -> dict[str, str]:
    """Every file of a run folder and what it holds; times, the lock and the journal aside."""
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_dir() or name in (JOURNAL, ".lock"):
            continue
        text = file.read_text()
        if file.name == "stage.json" and ".damaged" not in name:
            text = json.dumps({**json.loads(text), "seconds": 0}, sort_keys=True)
        found[name] = text
    return found


def events(path: Path) -> list[dict[str, object]]:
    """The journal's whole lines."""
    found = []
    for line in (path / JOURNAL).read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _make(folder: Path, recipe: str) -> None:
    (folder / "one.txt").write_text(recipe * 50)
    (folder / "two.txt").write_text("two")


def _long(run: RunFolder, folder: Path) -> None:
    """A stage of two parts, of which the first is dropped when the second is there."""
    texts = []
    for name in ("part-1", "part-2"):
        part = run.part(name, {"of": name}, lambda made, name=name: _write(made / "x", name))  # type: ignore[misc]
        texts.append((part / "x").read_text())
    run.drop_part("part-1")
    _write(folder / "sum.txt", "+".join(texts))


def _write(path: Path, text: str) -> None:
    path.write_text(text)
