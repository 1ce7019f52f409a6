"""Jobs over a real OpenSSH server on the loopback; nothing is left behind, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from mpo.errors import MpoError, RefusedError, UsageError
from mpo.profiles import ssh as ssh_module
from mpo.profiles.jobs import Job
from mpo.profiles.measure import measure_pair, measure_solo
from mpo.profiles.pipes import Limits
from mpo.profiles.ssh import SshTarget
from mpo.profiles.targets import opened

if TYPE_CHECKING:
    from tests.profiles.sshd import Server

ROWS = {"x": np.ones((64, 64), np.float32)}
QUICK = Limits(beat=0.2)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow one another at once."""
    monkeypatch.setattr(ssh_module, "PAUSE", 0.01)


def device(server: Server, python: str = sys.executable) -> SshTarget:
    """The server as a target, with this interpreter's packages."""
    return SshTarget(server.name, ssh=server.ssh, python=python, limits=QUICK)


@pytest.fixture
def target(server: Server) -> Iterator[SshTarget]:
    """The server as a target; at the end nothing may lie there."""
    made = device(server)
    yield made
    made.close()
    assert server.left() == []


def script(path: Path, body: str) -> Path:
    """A job's script that has the request as `asked` and answers with `tell(...)`."""
    path.write_text(
        "import json, os, sys, time\nasked = json.loads(sys.stdin.readline())\n"
        "def tell(answer): print(json.dumps(answer))\n" + body
    )
    return path


def chain(path: Path, layers: int) -> Path:
    """`layers` products with 64 x 64 matrices."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        values = random.normal(0, 0.1, (64, 64)).astype(np.float32)
        weights.append(helper.make_tensor(f"w{layer}", TensorProto.FLOAT, [64, 64], values.ravel()))
        end = "y" if layer == layers - 1 else f"t{layer}"
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Tanh", [f"m{layer}"], [end]),
        ]
        last = end
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], weights)
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def kill_sessions(server: Server) -> None:
    """What a lost network looks like from here: the server's end of each connection is gone."""
    for number in server.sessions():
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def test_a_model_is_measured_alone_over_ssh_as_it_is_here(
    target: SshTarget, tmp_path: Path
) -> None:
    solo = measure_solo(target, chain(tmp_path / "m.onnx", 8), ROWS, processes=1, seconds=0.1)
    assert len(solo.samples_ms) >= 50
    assert 0 < min(solo.samples_ms) <= solo.p50_ms <= solo.p90_ms
    assert 0 <= solo.load_memory_bytes <= solo.peak_memory_bytes < 100 * 2**20
    assert target.versions["numpy"] == np.__version__


def test_two_models_are_measured_in_turn_over_ssh(target: SshTarget, tmp_path: Path) -> None:
    whole, half = chain(tmp_path / "a.onnx", 16), chain(tmp_path / "b.onnx", 8)
    pair = measure_pair(target, whole, half, ROWS, ROWS, processes=6, seconds=0.6)
    assert 0.35 < pair.ratio.estimate < 0.75
    assert pair.ratio.pairs == 6


def test_files_keep_their_folders_and_are_sent_once(
    target: SshTarget, server: Server, tmp_path: Path
) -> None:
    for name, text in {"one": "1", "two": "2"}.items():
        (tmp_path / name).write_text(text)
    body = (
        "found = {n: [os.path.relpath(p, os.getcwd()), open(p).read()]"
        " for n, p in asked['files'].items()}\ntell(found)\n"
    )
    files = {"model/m.onnx": tmp_path / "one", "model/m.data": tmp_path / "two"}
    job = Job("read files", script(tmp_path / "s.py", body), {}, files=files)
    first = target.run(job)
    assert first == {
        "model/m.onnx": ["files/model/m.onnx", "1"],
        "model/m.data": ["files/model/m.data", "2"],
    }
    stored = {path: path.stat().st_mtime for path in server.temporary.rglob("store/*")}
    (tmp_path / "two").write_text("3")
    assert target.run(job)["model/m.data"][1] == "3"
    again = {path for path in server.temporary.rglob("store/*")}
    assert stored.keys() < again
    assert len(again - stored.keys()) == 1
    assert not list(server.temporary.rglob("job"))


def test_a_file_that_names_a_place_elsewhere_is_not_laid_there(
    target: SshTarget, tmp_path: Path
) -> None:
    own = script(tmp_path / "s.py", "tell({})\n")
    for name in ("../out", str(tmp_path / "out"), "a/../../../out"):
        with pytest.raises(UsageError, match="no relative name"):
            target.run(Job("wrote", own, {}, files={name: own}))
    assert not (tmp_path / "out").exists()


def test_the_scripts_process_gets_its_own_environment_only(
    target: SshTarget, tmp_path: Path
) -> None:
    own = script(tmp_path / "s.py", "tell(dict(os.environ))\n")
    found = target.run(Job("told", own, {}, environment={"OMP_NUM_THREADS": "3"}))
    assert found["OMP_NUM_THREADS"] == "3"
    assert "mpo-agent-" in found["TMPDIR"]
    assert not any(name.startswith("SSH_") or name == "HOME" for name in found)


def test_the_folder_on_the_device_is_private(target: SshTarget, server: Server) -> None:
    target.connect()
    (folder,) = server.temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_how_a_script_ends_is_told_as_on_this_machine(target: SshTarget, tmp_path: Path) -> None:
    crash = script(tmp_path / "a.py", "import signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(MpoError, match=r"measured m was ended by SIGSEGV"):
        target.run(Job("measured m", crash, {}))
    error = script(tmp_path / "b.py", "raise ValueError('no \\x1b[2J such model')\n")
    with pytest.raises(MpoError, match=r"ended with code 1: ValueError: no  \[2J such model"):
        target.run(Job("measured m", error, {}))
    lacking = script(tmp_path / "c.py", "tell({'error': 'no CUDA', 'hint': 'install it'})\n")
    with pytest.raises(UsageError, match="no CUDA") as caught:
        target.run(Job("measured m", lacking, {}))
    assert caught.value.hint == "install it"
    with pytest.raises(MpoError, match="gave no answer"):
        target.run(Job("measured m", script(tmp_path / "d.py", "print('nothing')\n"), {}))
    slow = script(tmp_path / "e.py", "time.sleep(60)\n")
    with pytest.raises(MpoError, match=r"measured m did not end within 1 s"):
        target.run(Job("measured m", slow, {}, timeout=1))
    assert target.run(Job("said", script(tmp_path / "f.py", "tell({'a': 1})\n"), {})) == {"a": 1}


def test_a_script_that_floods_is_stopped(target: SshTarget, tmp_path: Path) -> None:
    own = script(tmp_path / "s.py", "while True: print('x' * 100000)\n")
    with pytest.raises(MpoError, match="wrote more than 8388608 bytes"):
        target.run(Job("measured m", own, {}))


def test_a_script_that_says_much_beside_its_answer_is_heard(
    target: SshTarget, tmp_path: Path
) -> None:
    own = script(tmp_path / "s.py", "sys.stderr.write('y' * 5000000)\ntell({'n': 'z' * 3000000})\n")
    assert len(target.run(Job("measured m", own, {}))["n"]) == 3_000_000


def test_a_connection_killed_in_the_middle_of_a_job_is_made_again(
    target: SshTarget, server: Server, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    own = script(
        tmp_path / "s.py",
        f"with open({str(tries)!r}, 'a') as f: f.write('x')\n"
        "time.sleep(0.7 if asked['n'] else 0)\ntell({'n': asked['n']})\n",
    )
    assert target.run(Job("counted", own, {"n": 0})) == {"n": 0}

    def cut() -> None:
        until(lambda: tries.read_text() == "xx")
        kill_sessions(server)

    cutter = threading.Thread(target=cut)
    cutter.start()
    assert target.run(Job("counted", own, {"n": 1})) == {"n": 1}
    cutter.join()
    assert tries.read_text() == "xxx"


def test_a_connection_that_is_always_killed_is_given_up_with_the_number_of_tries(
    target: SshTarget, server: Server, tmp_path: Path
) -> None:
    target.connect()
    own = script(tmp_path / "s.py", "time.sleep(30)\ntell({})\n")
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.05):
            if list(server.temporary.rglob("job")):
                kill_sessions(server)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        with pytest.raises(MpoError, match=r"was lost 4 times while it counted") as caught:
            target.run(Job("counted", own, {}))
    finally:
        over.set()
        cutter.join()
    assert caught.value.exit_code == 1


def test_the_users_own_configuration_counts_but_not_what_is_meant_for_shells(
    server: Server, tmp_path: Path
) -> None:
    own = server.config.read_text()
    server.config.write_text(
        f"Host inner jump\n HostName 127.0.0.1\n Port {server.port}\n"
        f" HostKeyAlias [127.0.0.1]:{server.port}\n"
        f"Host inner\n ProxyJump jump\n RemoteCommand top\n LocalForward 9 localhost:9\n"
        f" ControlMaster auto\n ControlPath {tmp_path / 'master'}\n ControlPersist 60\n"
        f"Host *\n{own}"
    )
    target = SshTarget("ssh://inner", ssh=server.ssh, python=sys.executable, limits=QUICK)
    target.connect()
    assert len(server.sessions()) == 2, "one to the jump host, one through it"
    target.close()
    until(lambda: not server.sessions())
    assert not (tmp_path / "master").exists()
    assert server.left() == []


def test_a_changed_host_key_is_refused(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    server.know(other.with_suffix(".pub"))
    with pytest.raises(RefusedError, match=r"host key .* not the one that is known") as caught:
        device(server).connect()
    assert caught.value.exit_code == 8
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in caught.value.hint


def test_an_unknown_host_key_is_not_accepted(server: Server) -> None:
    server.known.write_text("")
    with pytest.raises(UsageError, match=r"host key .* not known yet") as caught:
        device(server).connect()
    assert "compare the fingerprint" in caught.value.hint
    assert server.known.read_text() == ""


def test_a_login_that_is_refused_says_so(server: Server) -> None:
    (server.folder / "authorized").write_text("")
    with pytest.raises(UsageError, match=r"lets nobody in.*Permission denied"):
        device(server).connect()


def test_a_server_that_is_not_there_is_named(server: Server) -> None:
    server.stop()
    with pytest.raises(MpoError, match=r"cannot be reached.*Connection refused") as caught:
        device(server).connect()
    assert caught.value.exit_code == 1


def test_a_host_without_an_address_is_named(server: Server) -> None:
    target = SshTarget("ssh://no-such-host.invalid", ssh=server.ssh, limits=QUICK)
    with pytest.raises(UsageError, match="not found"):
        target.connect()


def test_a_device_without_python_is_named(server: Server) -> None:
    with pytest.raises(UsageError, match="There is no python9 on ssh://") as caught:
        device(server, python="python9").connect()
    assert "MPO_REMOTE_PYTHON" in caught.value.hint


def test_packages_that_a_device_lacks_are_named_with_the_command(
    server: Server, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True
    )
    python = str(tmp_path / "bare" / "bin" / "python")
    with pytest.raises(UsageError, match=r"lacks .*'numpy'.*'onnxruntime'") as caught:
        device(server, python=python).connect()
    assert f"{python} -m pip install numpy onnxruntime" in caught.value.hint
    assert server.left() == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    target = device(server)
    target.connect()
    own = script(tmp_path / "s.py", f"open({str(tmp_path / 'on')!r}, 'w')\ntime.sleep(60)\n")

    def interrupt() -> None:
        until((tmp_path / "on").exists)
        assert alive(str(server.temporary))
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        target.run(Job("slept", own, {}))
    thread.join()
    assert server.left() == []
    until(lambda: not alive(str(server.temporary)) and not alive(str(server.config)))


CLIENT = """
import sys
from pathlib import Path
from mpo.profiles.jobs import Job
from mpo.profiles.ssh import SshTarget
target = SshTarget(sys.argv[1], ssh=("ssh", "-F", sys.argv[2]), python=sys.executable)
target.run(Job("slept", Path(sys.argv[3]), {}))
"""


def alive(word: str) -> list[str]:
    """Command lines of processes that have this word in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if word in line]


def test_a_client_that_is_killed_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    own = script(tmp_path / "s.py", f"open({str(tmp_path / 'on')!r}, 'w')\ntime.sleep(60)\n")
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.name, str(server.config), str(own)]
    )
    until((tmp_path / "on").exists, 20)
    assert alive(str(server.temporary))
    client.kill()
    client.wait()
    assert server.left() == []
    until(lambda: not alive(str(server.temporary)) and not alive(str(server.config)))


def test_what_a_killed_agent_left_is_deleted_by_the_next_one(server: Server) -> None:
    stale, busy = server.temporary / "mpo-agent-stale", server.temporary / "mpo-agent-new"
    for folder in (stale, busy):
        (folder / "store").mkdir(parents=True)
    os.utime(stale, (1, 1))
    target = device(server)
    target.connect()
    assert not stale.exists()
    assert busy.exists(), "too young to be taken for left"
    busy.joinpath("store").rmdir()
    busy.rmdir()
    target.close()
    assert server.left() == []


def test_targets_are_opened_by_name_and_all_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPO_SSH_CONFIG", str(server.config))
    monkeypatch.setenv("MPO_REMOTE_PYTHON", sys.executable)
    with opened(["local", server.name, server.name]) as targets:
        assert [target.name for target in targets] == ["local", server.name]
        assert len(list(server.temporary.iterdir())) == 1
    assert server.left() == []
    with pytest.raises(UsageError, match="no target"), opened([server.name, "nonsense"]):
        pass
    assert server.left() == []
