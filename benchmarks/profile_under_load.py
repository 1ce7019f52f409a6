"""Does `mpo profile` know when its figures are worth nothing?

Profiles this machine as it is, then with busy processes beside it (`yes > /dev/null`, two by
default). The second profile must either say that the machine is too noisy, or its figures must
agree with those of the first within both profiles' stated intervals. Run it on a quiet machine:

    python benchmarks/profile_under_load.py            # writes results/profile_under_load.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "profile_under_load.json"


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but keep a core busy."""
    started = [subprocess.Popen(["yes"], stdout=subprocess.DEVNULL) for _ in range(processes)]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def profile() -> dict[str, Any]:
    """What `mpo profile --json` says, with the seconds that it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "device.json"
        command = "from mpo.cli import main; main()"
        subprocess.run(
            [sys.executable, "-c", command, "profile", "-q", "-o", str(path)], check=True
        )
        record: dict[str, Any] = json.loads(path.read_text())
    return {"seconds": time.perf_counter() - start, "profile": record}


def ranges(record: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Every figure's stated interval: the limits', and p90 of the solo processes."""
    found = dict(record["limits"]["intervals"])
    p90 = record["noise"]["solo_p90_ms"]
    return {**found, "solo_p90_ms": (min(p90), max(p90))}


def compare(quiet: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """Which intervals of the two profiles meet, and whether the promise holds."""
    ours, theirs = ranges(quiet["profile"]), ranges(loaded["profile"])
    rows = {
        name: {
            "quiet": ours[name],
            "loaded": theirs[name],
            "agree": ours[name][0] <= theirs[name][1] and theirs[name][0] <= ours[name][1],
        }
        for name in ours
    }
    noisy = loaded["profile"]["noise"]["too_noisy"]
    return {
        "figures": rows,
        "too_noisy": {"quiet": quiet["profile"]["noise"]["too_noisy"], "loaded": noisy},
        "reasons": loaded["profile"]["noise"]["reasons"],
        "promise_holds": noisy or all(row["agree"] for row in rows.values()),
        "same_fingerprint": quiet["profile"]["fingerprint"] == loaded["profile"]["fingerprint"],
    }


def main() -> None:
    """Profile twice, compare, write the raw records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="busy ones (2)")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    quiet = profile()
    with busy(arguments.processes):
        loaded = profile()
    result = compare(quiet, loaded)
    record = {"busy_processes": arguments.processes, **result, "quiet": quiet, "loaded": loaded}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    for name, row in result["figures"].items():
        low, high = row["quiet"]
        print(
            f"{name:28} quiet {low:.4g} to {high:.4g}, loaded "
            f"{row['loaded'][0]:.4g} to {row['loaded'][1]:.4g}, "
            f"{'agree' if row['agree'] else 'DIFFER'}"
        )
    print(f"quiet: {quiet['seconds']:.0f} s, too noisy: {result['too_noisy']['quiet']}")
    print(f"loaded: {loaded['seconds']:.0f} s, too noisy: {result['too_noisy']['loaded']}")
    for reason in result["reasons"]:
        print(f"  {reason}")
    assert result["promise_holds"], "the loaded profile neither says noisy nor agrees"
    assert result["same_fingerprint"], "load must not change the device"


if __name__ == "__main__":
    main()
