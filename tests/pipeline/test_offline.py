"""The main verbs need no network and try none; nothing secret of the machine is written down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parents[1] / "subjects" / "tiny.py"
TOKEN = "canary-3f2a91"
SECRETS = {
    "HF_TOKEN": TOKEN,
    "AWS_SECRET_ACCESS_KEY": TOKEN,
    "GITHUB_TOKEN": TOKEN,
    "HTTPS_PROXY": f"http://user:{TOKEN}@proxy.invalid:1",
    "MPO_ANYTHING": TOKEN,
}
# Whatever opens a connection, or asks for an address, in the process itself ends the test.
SCRIPT = """
import os, sys

def watch(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        family = getattr(given[0], "family", None)
        if family is None or family.name != "AF_UNIX":
            sys.stderr.write(f"NETWORK: {event} {given[1:]}\\n")
            sys.stderr.flush()
            os._exit(99)

sys.addaudithook(watch)
from mpo.cli import cli
from click.testing import CliRunner

subject, run, bundle = sys.argv[1:]
easy = ["--threads", "1", "--effort", "quick", "--max-drop", "100%", "--epochs", "1"]
few = ["--seconds", "0.05", "--processes", "3", "--pairs", "8", "--threads", "1"]
verbs = [
    ["analyze", subject],
    ["optimize", subject, "-b", "params=70%", "--candidates", "1", *easy, "-o", run],
    ["report", run],
    ["plan", run, "-b", "params=80%"],
    ["bench", run + "/model.onnx", "--input", "4x8", *few],
    ["package", run, "-o", bundle],
    ["verify", bundle],
    ["doctor"],
]
for verb in verbs:
    done = CliRunner().invoke(cli, verb)
    print(verb[0], done.exit_code, flush=True)
    if done.exit_code:
        print(done.output, flush=True)
    sys.stderr.write(done.output)
"""


@pytest.mark.slow
@pytest.mark.case(22)
def test_every_verb_works_without_a_network_and_leaks_no_secret(tmp_path: Path) -> None:
    alone = ("unshare", "--user", "--map-root-user", "--net")
    may = (
        shutil.which("unshare")
        and not subprocess.run([*alone, "true"], capture_output=True, check=False).returncode
    )
    script = tmp_path / "verbs.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [*(alone if may else ()), sys.executable, str(script), str(TINY), "run", "b.mpo"],
        cwd=tmp_path, env={**os.environ, **SECRETS}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "NETWORK" not in done.stderr, done.stderr[-2000:]
    ended = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    wanted = ("analyze", "optimize", "report", "plan", "bench", "package", "verify", "doctor")
    assert ended == dict.fromkeys(wanted, "0"), done.stdout + done.stderr[-2000:]
    assert TOKEN not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != script]
    assert len(written) > 10
    for path in written:
        raw = path.read_bytes()
        assert TOKEN.encode() not in raw, path
    bundle = (tmp_path / "b.mpo").read_bytes()
    assert str(tmp_path).encode() not in bundle
    assert str(TINY.parent).encode() not in bundle
