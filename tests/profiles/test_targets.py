"""Names of targets: what is understood, what is refused, and what a hint says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo.errors import UsageError
from mpo.profiles.address import Address, parse_address
from mpo.profiles.jobs import Job
from mpo.profiles.ssh import SshTarget
from mpo.profiles.targets import ProfileTarget, named_target, open_target, opened


@pytest.mark.parametrize(
    ("text", "device"), [("local", "cpu"), ("local:cuda:0", "cuda:0"), ("local:cuda:12", "cuda:12")]
)
def test_this_machine_and_its_gpus_are_targets(text: str, device: str) -> None:
    target = open_target(text)
    assert (target.name, target.device) == (text, device)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://jetson", Address("", "jetson", 0)),
        ("ssh://me@10.0.0.7:2222", Address("me", "10.0.0.7", 2222)),
        ("ssh://a.b-c_d@pi_4.example.org", Address("a.b-c_d", "pi_4.example.org", 0)),
        ("ssh://[::1]", Address("", "::1", 0)),
        ("ssh://me@[2001:db8::7]:22", Address("me", "2001:db8::7", 22)),
    ],
)
def test_a_device_is_named_by_user_host_and_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    target = named_target(text)
    assert isinstance(target, SshTarget)
    assert (target.name, target.device) == (text, "cpu")


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh://-oProxyCommand=touch canary",
        "ssh://-oProxyCommand=x",
        "ssh://-h",
        "ssh://me@-h",
        "ssh://-l@h",
        "ssh://user;id@h",
        "ssh://h;id",
        "ssh://$(x)",
        "ssh://`x`",
        "ssh://h x",
        "ssh://h\n",
        "ssh://h\nProxyCommand x",
        "ssh://h\0",
        "ssh://h\x1b[2J",
        "ssh://h/",
        "ssh://h/path",
        "ssh://h:0",
        "ssh://h:65536",
        "ssh://h:22x",
        "ssh://h:",
        "ssh://@h",
        "ssh://a@b@c",
        "ssh://[::1",
        "ssh://::1",
        "ssh://[1.2.3.4]",
        "ssh://[::1]x",
        "ssh://höst",
        "ssh://h:٢٢",
        "ssh://" + "a" * 300,
        "SSH://h",
        "sftp://h",
        "local ",
        "local:",
        "local:cpu",
        "local:cuda",
        "local:cuda:-1",
        "local:cuda:1000",
        "local\n",
        "profile:",
        "profile:a\nb",
        "profile:a\x1b[2J",
        "-local",
        "",
        "jetson",
    ],
)
def test_anything_else_is_no_target(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_target(text)
    assert "ssh://[user@]host[:port]" in caught.value.hint
    assert caught.value.message.isprintable()


def test_a_password_is_refused_and_not_repeated() -> None:
    for text in ("ssh://me:hunter2@h", "ssh://me:hunter2@h:22", "ssh://:hunter2@h"):
        with pytest.raises(UsageError, match="takes no password") as caught:
            open_target(text)
        assert "hunter2" not in caught.value.message + caught.value.hint


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=40))
def test_no_name_becomes_an_option_or_a_second_word(text: str) -> None:
    for name in ("ssh://" + text, f"ssh://{text}@h", f"ssh://h:{text}"):
        try:
            address = parse_address(name)
        except UsageError:
            continue
        assert not address.host.startswith("-")
        assert not address.user.startswith("-")
        assert address.arguments[-2:] == ("--", address.host)
        assert all(word.isascii() and word.isprintable() for word in address.arguments)
        assert not set(address.host + address.user) & set(" ;&|$`'\"\\<>(){}*?~#!%/")


@pytest.mark.parametrize("python", ["-c", "python3; id", "py thon", "$(x)", "", "a'b", "p\n"])
def test_a_python_is_a_name_or_a_path(python: str) -> None:
    with pytest.raises(UsageError, match="no name of a Python"):
        SshTarget("ssh://h", python=python)


def test_a_saved_profile_is_a_target_that_cannot_measure(tmp_path: Path) -> None:
    target = open_target(f"profile:{tmp_path / 'jetson nano.json'}")
    assert isinstance(target, ProfileTarget)
    assert target.path == tmp_path / "jetson nano.json"
    with pytest.raises(UsageError, match="saved profile cannot measure") as caught:
        target.run(Job("measured", tmp_path, {}))
    assert "ssh://" in caught.value.hint
    target.close()


def test_several_targets_are_opened_once_each() -> None:
    with opened(["local", "profile:a.json", "local"]) as targets:
        assert [target.name for target in targets] == ["local", "profile:a.json"]


def test_hints_name_the_command_that_a_person_would_type() -> None:
    address = parse_address("ssh://me@pi:2222")
    assert address.login == "ssh -p 2222 me@pi"
    assert address.known_as == "[pi]:2222"
    assert parse_address("ssh://pi").login == "ssh pi"
    assert parse_address("ssh://pi:22").known_as == "pi"
