"""Agents that lie, flood, hang or die: refused or given up, in bounded time and memory."""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.profiles import ssh as ssh_module
from mpo.profiles.jobs import Job, parse_json, plain
from mpo.profiles.measure import measure_pair, measure_solo
from mpo.profiles.pipes import Limits
from mpo.profiles.ssh import SshTarget

MIB = 2**20
QUICK = Limits(handshake=2.0, silence=1.0, beat=0.2)
# An honest agent but for what a test puts in: AT_FIRST before its first word, AFTER behind it,
# and RUN in the place of a job's answer.
AGENT = r"""import json, os, re, sys, time
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\n")
def read(count):
    found = b""
    while len(found) < count:
        part = os.read(0, count - len(found))
        if not part:
            sys.exit()
        found += part
    return found
def write(data):
    while data:
        data = data[os.write(1, data):]
def frame(text, nonce=None, size=None):
    size = len(text) if size is None else size
    write(b"MPO1 %s %d\n%s" % ((nonce or NONCE).encode(), size, text.encode()))
def answer(**words):
    frame(json.dumps(dict(words, id=asked["id"])))
def flood(data, fd=1):
    while True:
        os.write(fd, data)
FOUND = {{"python": "3.9.1", "machine": "m", "modules": {{"numpy": "1"}}, "missing": {{}}}}
def output(text, code=0):
    answer(code=code, output=text, errors="")
NONCE = "0" * 32
{at_start}
read(int(re.search(r"range\((\d+)\)", sys.argv[-1])[1]))
while True:
    head = b""
    while not head.endswith(b"\n"):
        head += read(1)
    asked = json.loads(read(int(head.split()[1])))
    body = read(int(head.split()[2]))
    if asked["op"] == "hello":
        NONCE = asked["nonce"]
        {at_first}
        answer(python="3.9.1")
        {after}
    elif asked["op"] == "missing":
        {missing}
    elif asked["op"] == "put":
        {put}
    elif "modules" in asked["request"]:
        output(json.dumps(FOUND))
    else:
        {run}
"""
Fake = Callable[..., SshTarget]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes targets behind an `ssh` that is such an agent; it notes how it was called."""
    monkeypatch.setattr(ssh_module, "PAUSE", 0.01)

    def make(limits: Limits = QUICK, **parts: str) -> SshTarget:
        given = {"at_start": "", "at_first": "pass", "after": "pass", "run": "pass"}
        given |= {"put": 'answer(stored=asked["sha256"])'}
        given |= {"missing": 'answer(missing=list(asked["files"]))', **parts}
        program = tmp_path / "ssh"
        program.write_text(AGENT.format(log=str(tmp_path / "log"), **given))
        return SshTarget("ssh://h", ssh=(sys.executable, "-I", str(program)), limits=limits)

    return make


def ask(target: SshTarget, folder: Path, timeout: float = 20.0) -> object:
    """What a job of the target's gives; the connection is closed."""
    script = folder / "job.py"
    script.write_text("pass\n")
    try:
        return target.run(Job("asked", script, {}, timeout=timeout))
    finally:
        target.close()


def test_an_honest_agent_is_believed(fake: Fake, tmp_path: Path) -> None:
    assert ask(fake(run="output('{\"a\": [1, 2.5]}')"), tmp_path) == {"a": [1, 2.5]}


def test_a_greeting_before_the_first_answer_is_passed_over(fake: Fake, tmp_path: Path) -> None:
    target = fake(at_start='write(b"Welcome!\\nMPO1 is near\\n" * 500)', run="output('{}')")
    assert ask(target, tmp_path) == {}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"at_start": 'flood(b"x" * 65536)'}, "65536 bytes before its first answer"),
        ({"at_first": 'flood(b"MPO1 " * 9999)'}, "65536 bytes before its first answer"),
        ({"at_first": 'flood(b"e" * 65536, fd=2)'}, "1048576 bytes on stderr"),
        ({"after": 'flood(b"x" * 65536)'}, "bytes that are no answer"),
        ({"run": 'flood(b"x" * 65536)'}, "bytes that are no answer"),
        ({"run": 'flood(b"e" * 65536, fd=2)'}, "1048576 bytes on stderr"),
        ({"run": 'flood(b"\\n")'}, "bytes that are no answer"),
        ({"put": 'flood(b"x" * 65536)'}, "bytes that are no answer"),
        ({"at_first": 'answer(nonce=frame("{}", nonce="f" * 32))'}, "connection's nonce"),
        ({"run": 'frame("{}", nonce="f" * 32)'}, "connection's nonce"),
        ({"run": 'frame("{}", nonce="short")'}, "bytes that are no answer"),
        ({"run": 'frame("{}", size=999999999); flood(b"x")'}, "999999999 bytes; 16777216"),
        ({"run": 'frame("{}", size=10**30)'}, "bytes that are no answer"),
        ({"run": 'frame("{}", size=-1)'}, "bytes that are no answer"),
        ({"run": 'frame("{}" * 9, size=2); time.sleep(9)'}, "that nothing had asked for"),
        ({"run": 'frame("nonsense")'}, "no JSON"),
        ({"run": 'write(b"MPO1 %s 4\\n\\"\\xff\\xff\\"" % NONCE.encode())'}, "no JSON"),
        ({"run": 'frame("[" * 1000000)'}, "no JSON"),
        ({"run": 'frame("[]")'}, "no JSON object"),
        ({"run": 'frame("{}")'}, "nothing had asked for"),
        ({"run": 'asked["id"] += 1; output("{}")'}, "nothing had asked for"),
        ({"run": 'answer(code=NAN, output="", errors="")'.replace("NAN", 'float("nan")')}, "NaN"),
        ({"run": 'answer(code="0", output="", errors="")'}, "an exit code that is none"),
        ({"run": 'answer(code=True, output="", errors="")'}, "an exit code that is none"),
        ({"run": 'answer(code=10**4000, output="", errors="")'}, "an exit code that is none"),
        ({"run": "answer(code=0)"}, "an answer without output"),
        ({"run": 'flood(b"MPO1 %s 14\\n{\\"beat\\": true}" % NONCE.encode())'}, "more heartbeats"),
        ({"missing": 'answer(missing=["/etc/passwd"])'}, "not asked about"),
        ({"missing": 'answer(missing="abc")'}, "not asked about"),
        ({"missing": "answer(missing=[[]])"}, "not asked about"),
        ({"missing": "answer()"}, "not asked about"),
        ({"put": 'answer(stored="0" * 64)'}, "another hash"),
        ({"put": "answer()"}, "another hash"),
        ({"at_start": 'FOUND["missing"] = ["numpy"]'}, "a list of packages that is none"),
    ],
)  # fmt: skip
def test_what_is_no_honest_answer_is_refused(
    fake: Fake, tmp_path: Path, part: dict[str, str], words: str
) -> None:
    start = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match=words) as caught:
            ask(fake(**part), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50 * MIB
    finally:
        tracemalloc.stop()
    assert caught.value.exit_code == 8
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"at_start": "sys.exit(0)"}, "ended with code 0 before it answered"),
        ({"at_start": "sys.exit(3)"}, "ended with code 3 before it answered"),
        ({"at_start": "sys.exit('no \\x1b[31m room')"}, r"before it answered: no  \[31m room"),
        ({"at_start": "time.sleep(60)"}, "cannot be reached: nothing came for 2 s"),
        ({"at_first": "time.sleep(60)"}, "cannot be reached: nothing came for 2 s"),
        ({"at_first": "os.close(1); time.sleep(60)"}, "cannot be reached: it was closed"),
        ({"at_start": "while True: write(b'x'); time.sleep(0.5)"}, "no answer within 2 s"),
        ({"run": "sys.exit(1)"}, "was lost 4 times while it asked: it was closed"),
        ({"run": "time.sleep(60)"}, "was lost 4 times while it asked: nothing came for 1 s"),
        ({"run": 'frame("{", size=500); sys.exit()'}, "was lost 4 times"),
        ({"run": "answer(late=True)"}, "did not end within 20 s"),
        ({"run": "answer(flood=9)"}, "wrote more than"),
        ({"run": "output('[]')"}, "gave no answer, but list"),
        ({"run": "output('[' * 100000)"}, "gave no answer"),
        ({"run": "output('', code=-9)"}, "was ended by SIGKILL"),
    ],
)
def test_an_agent_that_ends_or_hangs_is_given_up_in_time(
    fake: Fake, tmp_path: Path, part: dict[str, str], words: str
) -> None:
    start = time.monotonic()
    with pytest.raises(MpoError, match=words) as caught:
        ask(fake(**part), tmp_path)
    assert caught.value.exit_code == 1
    assert time.monotonic() - start < 25


def test_heartbeats_do_not_lengthen_a_jobs_time(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_module, "GRACE", 1.0)
    target = fake(run='[(frame("{\\"beat\\": true}"), time.sleep(0.2)) for _ in range(999)]')
    with pytest.raises(MpoError, match="did not end within 1 s"):
        ask(target, tmp_path, timeout=1.0)


def test_a_device_that_reads_nothing_is_given_up(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"0" * 4 * MIB)
    (tmp_path / "job.py").write_text("pass\n")
    target = fake(
        missing='answer(missing=list(asked["files"]))\n'
        "        if len(asked['files']) > 1: time.sleep(60)",
    )
    with pytest.raises(MpoError, match="lost 4 times while it sent: nothing came for 1 s"):
        target.run(Job("sent", tmp_path / "job.py", {}, files={"big": tmp_path / "big"}))


@pytest.mark.parametrize("time_", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_times_that_are_no_numbers_are_refused(fake: Fake, tmp_path: Path, time_: str) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"the agent does not look")
    rows = {"x": np.ones(1, np.float32)}
    target = fake(run=f"""output('{{"p10_ms": [1.0, {time_}], "samples_ms": [{time_}]}}')""")
    for measure in (
        lambda: measure_pair(target, model, model, rows, rows),
        lambda: measure_solo(target, model, rows),
    ):
        with pytest.raises(RefusedError, match="where a number must stand") as caught:
            measure()
        assert caught.value.exit_code == 8
    target.close()


def test_times_of_nothing_are_no_result(fake: Fake, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"the agent does not look")
    rows = {"x": np.ones(1, np.float32)}
    target = fake(run="""output('{"p10_ms": [1.0, -1.0]}')""")
    with pytest.raises(MpoError, match="times that are none"):
        measure_pair(target, model, model, rows, rows)
    target.close()


def test_what_the_device_cannot_do_is_the_users_to_mend(fake: Fake, tmp_path: Path) -> None:
    target = fake(put='answer(fault="No space left (3 MB free in /tmp)")')
    with pytest.raises(UsageError, match="No space left") as caught:
        ask(target, tmp_path)
    assert "TMPDIR" in caught.value.hint


def test_ssh_is_called_with_a_list_and_never_trusts_a_new_key(fake: Fake, tmp_path: Path) -> None:
    fake(run="output('{}')")
    ssh = (sys.executable, "-I", str(tmp_path / "ssh"))
    ask(SshTarget("ssh://me@[::1]:2222", ssh=ssh, python="python3.11"), tmp_path)
    argv = parse_json((tmp_path / "log").read_text())
    assert argv[-3:-1] == ["--", "::1"]
    assert argv[-1].startswith("exec python3.11 -I -c 'import os,sys;")
    assert argv[argv.index("-p") + 1] == "2222"
    assert argv[argv.index("-l") + 1] == "me"
    assert {"-T", "-a", "-x", "BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(argv)


def test_without_an_ssh_program_the_user_is_told_what_to_install(tmp_path: Path) -> None:
    target = SshTarget("ssh://h", ssh=(str(tmp_path / "none"),))
    with pytest.raises(UsageError, match="cannot be started") as caught:
        target.connect()
    assert "openssh-client" in caught.value.hint


def test_a_file_that_went_away_is_an_error_with_its_name(fake: Fake, tmp_path: Path) -> None:
    target = fake()
    target.connect()
    with pytest.raises(MpoError, match="gone"):
        target.run(Job("asked", tmp_path / "gone", {}))


def test_no_process_remains_when_an_agent_does_not_want_to_go(fake: Fake, tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nread = lambda n: 0"
    target = fake(at_start=stubborn + "\nwhile True: time.sleep(1)", limits=Limits(handshake=0.3))
    start = time.monotonic()
    with pytest.raises(MpoError):
        target.connect()
    assert time.monotonic() - start < 6
    marked = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(tmp_path / "ssh").encode() in path.read_bytes()
    ]
    assert not marked


def test_what_a_device_says_is_cut_and_made_printable() -> None:
    assert plain("a\x1b]0;t\x07b\u202ec\n") == "a ]0;t b c"
    assert len(plain("x" * 10**6)) == 600
    assert plain(None) == "None"


def test_numbers_that_are_none_are_refused_wherever_they_come_from() -> None:
    assert parse_json('{"a": [1e308, 0.1]}') == {"a": [1e308, 0.1]}
    assert math.isfinite(parse_json("1e-400"))
    for text in ("NaN", "[Infinity]", '{"a": -Infinity}', "1e400"):
        with pytest.raises(RefusedError):
            parse_json(text)
    with pytest.raises(ValueError, match="Exceeds the limit"):
        parse_json("1" * 10**5)
