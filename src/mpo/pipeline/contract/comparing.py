"""The story of `mpo contract`: calibrate the region, compare decisions on fresh samples, judge, and
search for counterexamples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from mpo import __version__
from mpo.bounds import clopper_pearson, look_sizes
from mpo.errors import UsageError
from mpo.optimizer.data.batches import Batch, primary
from mpo.optimizer.data.quality import detach, require_finite, tally_of
from mpo.optimizer.data.tally import Tally
from mpo.optimizer.decisions.decisions import Tallied
from mpo.optimizer.decisions.fresh import Fresh, known_keys, shuffled
from mpo.pipeline.contract.claims import (
    Terms,
    certificate_of,
    claims_of,
    curve_of,
    distances_of,
    divergence_of,
    overall,
)
from mpo.pipeline.contract.scene import (
    BOUND,
    CALIBRATION,
    Asked,
    Calibrated,
    Progress,
    Scene,
    calibrate,
    set_scene,
)
from mpo.records import Claim, Contract, ContractData, Mining, Quality, Region, Witness
from mpo.records.contracts import Judged
from mpo.timing import Stages

BROKEN, UNDECIDED = 4, 5
MINABLE = ("classes", "sides")  # outputs with one decision an example


def make_contract(asked: Asked, progress: Progress) -> Contract:
    """Judge a candidate's decisions against its original's.

    Raises:
        UsageError: nothing there, models of different label spaces, a model that answers
            differently each time, no fresh samples.
    """
    stages = Stages()
    with stages.timed("load"):
        scene = set_scene(asked, progress)
    with stages.timed("calibrate"):
        validation = scene.splits.validation
        calibrated = calibrate(scene.original.predict, scene.reading, validation, asked.terms)
    with stages.timed("compare"):
        fresh = Fresh(scene.splits.test, known_keys(scene.splits.train, scene.splits.validation))
        found, qualities, claims = compare(asked, scene, calibrated, fresh, progress)
    mining: Mining | None = None
    witnesses: tuple[Witness, ...] = ()
    if asked.mine or (asked.mine is None and scene.reading.outputs in MINABLE):
        from mpo.pipeline.contract.mined import mine

        with stages.timed("mine"):
            mining, witnesses = mine(asked, scene, calibrated.tau, progress)
    return record(
        asked,
        scene,
        calibrated,
        Outcome(found, qualities, claims, fresh.duplicates, mining, witnesses),
        stages.seconds,
    )


def compare(
    asked: Asked, scene: Scene, calibrated: Calibrated, fresh: Fresh, progress: Progress
) -> tuple[Tallied, dict[str, Quality], tuple[Claim, ...]]:
    """Both models on fresh samples, until the claims are decided or the samples end.

    Raises:
        UsageError: not one fresh sample.
    """
    terms = asked.terms
    found = Tallied(scene.reading, asked.seed)
    tallies: dict[str, Tally] = {}
    total = len(scene.splits.test)
    claims: tuple[Claim, ...] = ()
    for last, batches in _parts(fresh, terms, asked.seed):
        for batch in batches:
            _take_in(scene, batch, found, tallies)
            progress("contract: compare", min(len(found), total), total)
        if not len(found):
            raise UsageError(
                f"No fresh sample is left: all {fresh.duplicates} examples of the {BOUND} split "
                "are in the train or validation split too.",
                hint="Give a test split of its own.",
            )
        claims = claims_of(terms, found, calibrated.tau, calibrated.limit)
        if last or overall(claims) != "undecided":
            break
    progress("contract: compare", total, total)
    qualities = {name: tally.result(interval=True) for name, tally in tallies.items()}
    return found, qualities, claims


def _parts(fresh: Fresh, terms: Terms, seed: int) -> Iterator[tuple[bool, Iterable[Batch]]]:
    """The samples of each look, and whether it is the last."""
    if terms.looks <= 1:
        yield True, fresh
        return
    count, part = shuffled(fresh, seed)
    sizes = look_sizes(count, terms.looks)
    for start, size in zip((0, *sizes), sizes, strict=False):
        yield size == sizes[-1], part(start, size)


def _take_in(scene: Scene, batch: Batch, found: Tallied, tallies: dict[str, Tally]) -> None:
    outputs = {
        "original": scene.original.predict(batch),
        "candidate": scene.candidate.predict(batch),
    }
    for answer in outputs.values():
        require_finite(primary(answer), BOUND)
    found.add(batch, outputs["original"], outputs["candidate"])
    if batch.targets is None:
        return
    for name, answer in outputs.items():
        if name not in tallies:
            tallies[name] = tally_of(scene.subject, batch, scene.original.predict)
        tallies[name].add(batch, detach(answer))


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    found: Tallied
    qualities: dict[str, Quality]
    claims: tuple[Claim, ...]
    duplicates: int
    mining: Mining | None
    witnesses: tuple[Witness, ...]


def record(
    asked: Asked,
    scene: Scene,
    calibrated: Calibrated,
    outcome: Outcome,
    seconds: dict[str, float],
) -> Contract:
    """Everything as one record."""
    found, terms, reading = outcome.found, asked.terms, scene.reading
    tau = calibrated.tau
    verdict = verdict_of(outcome, tau)
    decided = reading.outputs != "values"
    return Contract(
        tool={"name": "mpo", "version": __version__},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        original=scene.original.side,
        candidate=scene.candidate.side,
        data=_data(scene, calibrated, outcome),
        outputs=reading.outputs,
        classes=reading.classes,
        confidence=terms.confidence,
        seed=asked.seed,
        looks=terms.looks,
        look=terms.look,
        region=region_of(found, terms, tau) if tau is not None else None,
        claims=outcome.claims,
        curve=curve_of(found) if decided else (),
        certificate=certificate_of(found, tau) if decided else None,
        divergence=divergence_of(found) if decided else None,
        distances=None if decided else distances_of(found, calibrated.limit, calibrated.spread),
        quality=outcome.qualities,
        mining=outcome.mining,
        witnesses=outcome.witnesses,
        verdict=verdict,
        strict=asked.strict,
        exit_code=exit_code(verdict, strict=asked.strict),
        seconds=seconds,
    )


def verdict_of(outcome: Outcome, tau: float | None) -> Judged:
    """The claims' verdict. A claim with eps 0 says "never", which one witness refutes."""
    never = [claim for claim in outcome.claims if claim.eps == 0]
    if any(_within(claim, one, tau) for claim in never for one in outcome.witnesses):
        return "broken"
    return overall(outcome.claims)


def _within(claim: Claim, witness: Witness, tau: float | None) -> bool:
    """Whether a claim speaks of this input."""
    if claim.stratum == "region":
        return tau is not None and witness.margin <= tau
    return claim.stratum == "overall" or claim.label == str(witness.original)


def exit_code(verdict: Judged, *, strict: bool) -> int:
    """0; 4 when broken; 5 when undecided and --strict asks for a decision."""
    if verdict == "broken":
        return BROKEN
    return UNDECIDED if verdict == "undecided" and strict else 0


def region_of(found: Tallied, terms: Terms, tau: float) -> Region:
    """The region, with its mass among fresh samples."""
    inside = int((found.column("margin") <= tau).sum())
    ends = clopper_pearson(inside, len(found), 0.025)
    return Region(
        tau=tau,
        asked_mass=None if terms.tau is not None else terms.mass,
        mass=inside / len(found),
        mass_ci95=(ends.low, ends.high),
    )


def _data(scene: Scene, calibrated: Calibrated, outcome: Outcome) -> ContractData:
    mined = CALIBRATION if outcome.mining else ""
    used = "the region was set" + (" and counterexamples were searched" if mined else "")
    told = (
        f"The bounds stand on {len(outcome.found)} examples of the {BOUND} split; {used} on the "
        f"{CALIBRATION} split. {outcome.duplicates} examples that are in the train or validation "
        "split too were left out."
    )
    return ContractData(
        subject=scene.subject.name,
        bound_split=BOUND,
        samples=len(outcome.found),
        duplicates=outcome.duplicates,
        tau_split=CALIBRATION if calibrated.samples else "",
        tau_samples=calibrated.samples,
        mining_split=mined,
        statement=told,
        notes=scene.splits.notes,
    )
