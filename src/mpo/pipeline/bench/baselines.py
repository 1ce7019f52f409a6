"""What --baseline names: a model that is measured beside, or the record of an earlier bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from mpo.errors import BaselineError, UsageError
from mpo.records import Bench, BenchPlace, BenchSubject, Device
from mpo.rules import Rule

MODEL = "model.onnx"


def model_file(named: Path) -> Path:
    """The ONNX file that a path names: itself, or the model of a run folder.

    Raises:
        UsageError: nothing there, or a folder without a model.
    """
    path = named / MODEL if named.is_dir() else named
    if not path.is_file():
        what = f"{named} holds no {MODEL}." if named.is_dir() else f"There is no file {named}."
        raise UsageError(what, hint="Name an ONNX file, a bundle, or the folder of a finished run.")
    return path


def read_bench(path: Path) -> Bench:
    """The record of an earlier `mpo bench --json`.

    Raises:
        UsageError: it cannot be read, or is no such record.
        BaselineError: it is of another version.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Bench.model_validate_json(text)
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror}.", hint="Check the path."
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError) and '"mpo.bench/' in text[:200]:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BaselineError(
                f"{path} is a bench record that this version cannot read: {where}: {first['msg']}.",
                hint="Measure the baseline again with this version.",
            ) from error
        raise UsageError(
            f"{path} is no mpo.bench/1 record.",
            hint="Name an ONNX file, a run folder, or what `mpo bench --json FILE` wrote.",
        ) from error


def require_comparable(
    stored: Bench,
    places: Sequence[BenchPlace],
    candidate: BenchSubject,
    protocol: str,
    rules: Sequence[Rule],
) -> None:
    """Let rules on measured figures use a stored baseline only when it was measured likewise.

    Same protocol, inputs and, on every target, the same device, batch and session. Rules on exact
    figures (size, params, nodes) need none of it, those on MACs the same inputs.

    Raises:
        BaselineError: they differ; the message says in what.
    """
    measured = [rule for rule in rules if rule.source in ("paired", "solo")]
    counted = [rule for rule in rules if rule.metric == "macs"]
    apart = []
    if measured or counted:
        apart += _inputs_apart(stored, candidate)
    if measured:
        if stored.protocol.id != protocol:
            apart.append(f"protocol {stored.protocol.id}, now {protocol}")
        for place in places:
            apart += _place_apart(stored, place)
    if apart:
        text = (measured or counted)[0].text
        raise BaselineError(
            f"The stored baseline cannot be compared for {text!r}: {'; '.join(apart)}.",
            hint="Name the baseline's model itself, which is then measured here beside the "
            "candidate, or measure a new baseline on this machine.",
        )


def _inputs_apart(stored: Bench, candidate: BenchSubject) -> list[str]:
    old = stored.subject("candidate")
    if old is None:
        return ["it has no candidate"]
    before = [(one.shape, one.dtype) for one in old.inputs]
    now = [(one.shape, one.dtype) for one in candidate.inputs]
    if before == now:
        return []
    return [f"inputs {_told(old)}, now {_told(candidate)}"]


def _told(subject: BenchSubject) -> str:
    return ", ".join(
        f"{one.name} {'x'.join(map(str, one.shape)) or 'scalar'} {one.dtype}"
        for one in subject.inputs
    )


def _place_apart(stored: Bench, place: BenchPlace) -> list[str]:
    old = next((one for one in stored.places if one.target == place.target), None)
    if old is None:
        return [f"it was not measured on {place.target}"]
    apart = []
    if old.batch != place.batch:
        apart.append(f"batch {old.batch}, now {place.batch}")
    if old.session != place.session:
        before, now = old.session.model_dump(), place.session.model_dump()
        apart += [f"{key} {before[key]}, now {now[key]}" for key in now if before[key] != now[key]]
    if old.fingerprint != place.fingerprint:
        apart += _devices_apart(old.device, place.device) or ["another device"]
    return apart


def _devices_apart(old: Device, new: Device) -> list[str]:
    """In what two devices differ, as far as a reader can tell."""
    before, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    before |= {f"cpu {key}": value for key, value in before.pop("cpu").items()}
    now |= {f"cpu {key}": value for key, value in now.pop("cpu").items()}
    told = [
        f"{key} {_short(before.get(key))}, now {_short(now.get(key))}"
        for key in now
        if before.get(key) != now.get(key)
    ]
    return told[:4]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
