"""A run by several processes of torchrun or `accelerate launch`: the first one tells the story, the
others help with the passes over the data.

Only the first process has the run's folder, the targets and the terminal. Where a pass over the
data begins, it announces which; the others make the same pass on their share, with the results
thrown away, and wait for the next word. They end with the same exit code and print nothing; only
when the first one is gone do they say so.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpo.errors import MpoError
from mpo.launching import launched
from mpo.optimizer.ground.distributed import ALONE, Crew, CrewError, Launched
from mpo.pipeline.optimize.agreeing import from_words
from mpo.pipeline.optimize.training import train
from mpo.pipeline.run.analysis import measure_analysis
from mpo.pipeline.run.context import Context, subject_of
from mpo.pipeline.run.steady import steady_torch
from mpo.recipe import Recipe, to_toml
from mpo.records import PlanCandidate, Quality
from mpo.store import open_run


@contextlib.contextmanager
def joined() -> Iterator[Crew]:
    """The processes that were launched together with this one; this one alone without a launcher.

    The others are told when the block ends with an error; `Crew.leave` tells them of any other end.

    Raises:
        UsageError: accelerate is not installed.
        CrewError: another process has ended.
    """
    if not launched():
        yield ALONE
        return
    crew = Launched()
    try:
        yield crew
    except CrewError:
        raise
    except MpoError as error:
        crew.leave(error.exit_code, error.message)
        raise
    except Exception as error:
        crew.leave(1, f"{type(error).__name__}: {error}")
        raise
    finally:
        crew.close()


def follow(recipe: Recipe, crew: Crew) -> int:
    """Help with a recipe's passes over the data until the first process ends; its exit code.

    Raises:
        CrewError: the first process is gone without a word.
    """
    try:
        with (
            steady_torch(),
            tempfile.TemporaryDirectory(prefix="mpo-crew-") as name,
            open_run(Path(name), to_toml(recipe)) as folder,
        ):
            context = Context(recipe, subject_of(recipe), folder, _silent, places=(), crew=crew)
            while True:
                word: dict[str, Any] = crew.tell(None)
                HELP[word["do"]](context, word)
    except CrewError as error:
        if error.lost:
            raise
        return error.code
    except MpoError as error:
        crew.leave(error.exit_code, error.message)  # the first process prints it
        return error.exit_code


def _analysis(context: Context, _: Mapping[str, Any]) -> None:
    measure_analysis(context)


def _train(context: Context, word: Mapping[str, Any]) -> None:
    candidate = PlanCandidate.model_validate(word["candidate"])
    original = Quality.model_validate(word["original"])
    train(context, candidate, original, from_words(word["schedule"]))


def _silent(what: str, done: int, total: int) -> None:
    """The first process shows the progress."""


HELP: dict[str, Callable[[Context, Mapping[str, Any]], None]] = {
    "analysis": _analysis,
    "train": _train,
}
