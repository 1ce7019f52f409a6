"""What `kill -9` does to the demo's run: killed at random moments, gone on with each time.

One run is left alone; then runs are killed, each several times on its way, at moments drawn
uniformly over the time that the first one took, and each time the same command is given again. At
the end of each: the same plan, the same ONNX file, nothing made twice that was finished, nothing
left.

    python benchmarks/kills.py [--kills 25] [--chain 5] [--seed 0] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "kills.json"
COMMAND = ["optimize", "examples/digits/subject.py", "--budget", "params=60%", "-q"]
QUICK = ["--effort", "quick", "--epochs", "4", "--candidates", "1"]
START = "from mpo.cli import main; main()"
MARK = "MPO_BENCHMARK_KILLS"  # in the environment of every process that a run starts
PATIENCE = 5.0  # seconds in which children of a killed run must be gone


def main() -> None:
    """Run, kill, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--chain", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=" ".join(QUICK))
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    COMMAND.extend(QUICK if asked.quick else [])
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        home = Path(name)
        alone = home / "alone"
        seconds = finish(alone, home)
        wanted = facts(alone)
        startup = time_of_nothing(alone, home)
        print(f"alone {seconds:.0f} s, of which {startup:.0f} s when all is there already")
        draw, runs, kills = random.Random(asked.seed), list[dict[str, Any]](), 0
        while kills < asked.kills:
            moments = sorted(draw.uniform(0, seconds) for _ in range(asked.chain))
            run = chain(home / f"run-{len(runs)}", home, moments, startup, asked.kills - kills)
            run |= verdict(home / f"run-{len(runs)}", wanted, home)
            kills += len(run["kills"])
            runs.append(run)
            print(json.dumps(run))
            record = {"seconds_alone": seconds, "seconds_when_finished": startup, "kills": kills}
            told = {**record, "command": COMMAND, "load_1min": os.getloadavg()[0], "runs": runs}
            told |= {"all_right": all(one["right"] for one in runs)}
            asked.out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{kills} kills in {len(runs)} runs: {'all right' if told['all_right'] else 'NOT right'}")


def chain(
    folder: Path, home: Path, moments: list[float], startup: float, most: int
) -> dict[str, Any]:
    """One run, killed at these moments of its work, then left to its end."""
    kills, before, spent = list[dict[str, Any]](), 0.0, 0.0
    for moment in moments[:most]:
        wait = startup + moment - before if kills else moment
        child = start(folder, home)
        try:
            child.wait(wait)
            break  # it ended before its moment came
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        before, spent = moment, spent + wait
        kills.append({"after_s": wait, "orphans": orphans(), "at": last_event(folder)})
    return {"kills": kills, "seconds_to_end": finish(folder, home), "seconds_lost_to_kills": spent}


def start(folder: Path, home: Path) -> subprocess.Popen[bytes]:
    """The command."""
    scratch = home / "tmp"
    scratch.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", START, *COMMAND, "-o", str(folder)],
        cwd=ROOT,
        env={**os.environ, MARK: "1", "TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
    )


def finish(folder: Path, home: Path) -> float:
    """Let the command end; how long it took."""
    begin = time.perf_counter()
    if code := start(folder, home).wait():
        raise SystemExit(f"the run ended with {code}")
    return time.perf_counter() - begin


def time_of_nothing(folder: Path, home: Path) -> float:
    """Seconds of the command on a finished run: starting up, and looking through what is there."""
    return finish(folder, home)


def facts(folder: Path) -> dict[str, Any]:
    """What must come out the same."""
    return {
        "plan": json.loads((folder / "plan.json").read_text()),
        "onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")),
    }


def verdict(folder: Path, wanted: dict[str, Any], home: Path) -> dict[str, Any]:
    """How a run that was killed on its way compares."""
    found, made = facts(folder), Counter[str]()
    for line in (folder / "journal.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event["event"] in ("stage made", "part made"):
                made[f"{event['stage']} {event.get('part', '')}".strip()] += 1
    left = sorted(path.name for path in (home / "tmp").iterdir())
    told = {
        "same_plan": found["plan"] == wanted["plan"],
        "same_onnx": found["onnx"] == wanted["onnx"],
        "same_files": found["files"] == wanted["files"],
        "made_twice": sorted(name for name, count in made.items() if count > 1),
        "left_in_tmp": left,
        "left_processes": orphans(),
    }
    right = all(told[name] for name in ("same_plan", "same_onnx", "same_files"))
    return {**told, "right": right and not told["made_twice"] and not left and not orphans()}


def orphans() -> int:
    """Processes of killed runs that are still there when they must be gone."""
    end = time.perf_counter() + PATIENCE
    while (alive := marked()) and time.perf_counter() < end:
        time.sleep(0.1)
    return alive


def marked() -> int:
    """Processes that a run started, this one aside."""
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and MARK in process.environ():
                count += 1
    return count


def last_event(folder: Path) -> str:
    """The last line of the journal: where the run was."""
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    if not lines:
        return "before the first stage"
    with contextlib.suppress(ValueError):
        event = json.loads(lines[-1])
        return f"after {event['event']}: {event.get('stage', '')} {event.get('part', '')}".strip()
    return "in a line of the journal"


if __name__ == "__main__":
    main()
