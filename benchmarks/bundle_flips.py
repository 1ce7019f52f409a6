"""Every value of every byte of a small bundle: is any change not detected?

    python -m benchmarks.bundle_flips [--values 255] [--out FILE]

All other values of each byte, and every truncation; in memory, by the reader that devices run. What
it made of a manifest is kept for the same bytes of a manifest: a tenth of the time.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from pathlib import Path

from mpo.bundle import mpo_edge
from mpo.timing import Stopwatch
from tests.bundle.small import lean
from tests.bundle.test_bytes import found_whole

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Try them all and write what was found."""
    line = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    line.add_argument("--values", type=int, default=255, help="of each byte, from the next one on")
    line.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/bundle_flips.json")
    asked = line.parse_args()
    mpo_edge.parse_manifest = functools.lru_cache(4)(mpo_edge.parse_manifest)
    with tempfile.TemporaryDirectory() as folder:
        lean(Path(folder) / "lean.mpo")
        raw = bytearray((Path(folder) / "lean.mpo").read_bytes())
    assert found_whole(bytes(raw))
    watch, missed = Stopwatch(), []
    for place, value in enumerate(bytes(raw)):
        for step in range(1, asked.values + 1):
            raw[place] = (value + step) % 256
            if found_whole(bytes(raw)):
                missed.append([place, raw[place]])
        raw[place] = value
    cuts = [end for end in range(len(raw)) if found_whole(bytes(raw[:end]))]
    told = {
        "bytes": len(raw),
        "changes": len(raw) * asked.values,
        "not_detected": missed,
        "cuts": len(raw),
        "cuts_not_detected": cuts,
        "seconds": watch.seconds,
    }
    asked.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
