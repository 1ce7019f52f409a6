"""Do the contract's bounds hold as stated, and are they needlessly wide? Synthetic experiments with
known disagreement.

Each experiment draws margins, a decision class and disagreements that grow rarer with the margin,
judges the claims overall, in the boundary region and per class with mpo's own statistics, and looks
whether the true probabilities lie within the bounds. Beside them: what Hoeffding's bounds give,
false verdicts with four looks, and the same looks without correction.

    python benchmarks/contract_coverage.py [--experiments 2000] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpo.bounds import (
    claim_alpha,
    clopper_pearson,
    hoeffding,
    judge,
    look_sizes,
    planned_share,
)

ROOT = Path(__file__).resolve().parents[1]
CONFIDENCE, CLASSES, MASS = 0.95, 10, 0.1
WORLDS = {  # disagreement inside the region, outside of it
    "faithful": (0.02, 0.0005),
    "doubtful": (0.2, 0.005),
    "unfaithful": (0.5, 0.05),
}
EPS, LOOKS = 0.05, 4


def draw(
    random: np.random.Generator, samples: int, inside: float, outside: float
) -> tuple[NDArray[np.bool_], NDArray[np.int_], NDArray[np.bool_]]:
    """Region, class and disagreement of each sample."""
    region = random.random(samples) < MASS
    classes = random.choice(CLASSES, samples, p=weights())
    differ = random.random(samples) < np.where(region, inside, outside)
    return region, classes, differ


def weights() -> NDArray[np.float64]:
    """Unequal classes, as data have them."""
    raw = np.arange(1, CLASSES + 1, dtype=float)
    return np.asarray(raw / raw.sum())


def coverage(random: np.random.Generator, samples: int, world: str, trials: int) -> dict[str, Any]:
    """How often all bounds of an experiment hold together, how often each does, and how wide."""
    inside, outside = WORLDS[world]
    overall = MASS * inside + (1 - MASS) * outside
    truth = [overall, inside, *[overall] * CLASSES]
    alpha = claim_alpha(CONFIDENCE, len(truth))
    joint = single = 0
    high: list[list[float]] = []
    for _ in range(trials):
        region, classes, differ = draw(random, samples, inside, outside)
        strata = [np.ones(samples, bool), region, *(classes == c for c in range(CLASSES))]
        counts = [(int(differ[s].sum()), int(s.sum())) for s in strata]
        found = [clopper_pearson(k, n, alpha) for k, n in counts]
        joint += all(b.high >= p for b, p in zip(found, truth, strict=True))
        single += clopper_pearson(*counts[1], 1 - CONFIDENCE).high >= inside
        wide = [hoeffding(k, n, alpha).high for k, n in counts[:2]]
        high.append([found[0].high, found[1].high, *wide])
    means = np.mean(high, axis=0)
    return {
        "samples": samples,
        "world": world,
        "experiments": trials,
        "claims": len(truth),
        "all_bounds_hold": joint / trials,
        "region_bound_alone_holds": single / trials,
        "true": {"overall": overall, "region": inside},
        "mean_upper": {"overall": means[0], "region": means[1]},
        "mean_upper_hoeffding": {"overall": means[2], "region": means[3]},
    }


def false_verdicts(random: np.random.Generator, samples: int, trials: int) -> dict[str, Any]:
    """False verdicts of four looks at the worst place: the limit itself."""
    looks = look_sizes(samples, LOOKS)
    drawn = (random.random((trials, samples)) < EPS).cumsum(1)
    counts = [[(int(row[n - 1]), n) for n in looks] for row in drawn]
    found: dict[str, Any] = {"samples": samples, "eps": EPS, "looks": looks, "experiments": trials}
    for name, share in (("spent", planned_share(LOOKS)), ("uncorrected", 1.0)):
        alpha = claim_alpha(CONFIDENCE, 1, share)
        for verdict in ("kept", "broken"):
            hit = sum(any(judge(k, n, EPS, alpha) == verdict for k, n in row) for row in counts)
            found[f"{verdict}_{name}"] = hit / trials
    return found


def main() -> None:
    """Draw, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/contract_coverage.json"
    )
    given = parser.parse_args()
    random = np.random.default_rng(0)
    rows = []
    for samples in (500, 2000, 10_000):
        for world in WORLDS:
            rows.append(coverage(random, samples, world, given.experiments))
            row = rows[-1]
            print(
                f"n {samples:6d} {world:10s} all {row['claims']} bounds hold "
                f"{row['all_bounds_hold']:.4f}; region {row['true']['region']:.3f}: upper "
                f"{row['mean_upper']['region']:.4f}, Hoeffding "
                f"{row['mean_upper_hoeffding']['region']:.4f}"
            )
    looks = [false_verdicts(random, samples, given.experiments) for samples in (800, 4000)]
    for one in looks:
        print(
            f"n {one['samples']}, true share = eps, {LOOKS} looks: kept {one['kept_spent']:.4f}, "
            f"broken {one['broken_spent']:.4f}; uncorrected {one['kept_uncorrected']:.4f}, "
            f"{one['broken_uncorrected']:.4f}"
        )
    result = {
        "command": f"python benchmarks/contract_coverage.py --experiments {given.experiments}",
        "confidence": CONFIDENCE,
        "region_mass": MASS,
        "coverage": rows,
        "sequential": looks,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
