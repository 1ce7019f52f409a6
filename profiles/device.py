"""Describe a device: what figures are measured on. No host or user names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from mpo.errors import MpoError
from mpo.profiles import probe
from mpo.profiles.jobs import Job, Target
from mpo.records import Conditions, Device, Environment, SessionOptions

PROBE = Path(__file__).with_name("probe.py")
STATE = Path(__file__).with_name("probe_state.py")
DESCRIBE_S = 60.0
WATCH_S = 0.4  # in which other processes' work is counted
# Packages that run no model when a target is measured: their versions change no figure.
BESIDE = ("mpo-optimizer", "torch", "onnx")
MEMORY_STEP = 2**28  # the kernel keeps a little of the memory, another amount in each version


def describe(target: Target) -> Device:
    """The target's device, from a process there; takes less than a second.

    Raises:
        UsageError: the target cannot answer until the user does something.
        MpoError: the process failed, or its answer is no description.
    """
    return _described(target, 0.0)[0]


def observe(target: Target) -> tuple[Device, Conditions]:
    """The target's device, and how busy and hot it is at the moment.

    Raises:
        UsageError: the target cannot answer until the user does something.
        MpoError: a process failed, or its answer is no description.
    """
    return _described(target, WATCH_S)


def _described(target: Target, watch_s: float) -> tuple[Device, Conditions]:
    """With the work of others that `watch_s` seconds show."""
    told = target.run(Job("described the device", PROBE, {"job": "describe"}, timeout=DESCRIBE_S))
    request = {"job": "state", "watch_s": watch_s}
    state = target.run(Job("looked at the device's state", STATE, request, timeout=DESCRIBE_S))
    try:
        device = Device.model_validate({**told, "gpus": state.get("gpus", ())})
        return device, Conditions.model_validate(state.get("conditions", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise MpoError(
            f"What {target.name} says of itself is no description: {where}: {first['msg']}.",
            hint="Is it the mpo of this version that answers there?",
        ) from error


def fingerprint(device: Device) -> str:
    """sha256 over what changes a device's figures, in hexadecimal.

    In it: CPU, its governor, highest clock and container limits, memory, GPUs with their drivers,
    the Jetson's power mode, the runtimes and providers, the kernel's and Python's minor version.
    Not in it: free memory, load, the kernel's patch release, and which of two alike GPUs it is.
    """
    facts = device.model_dump(mode="json")
    facts["kernel"], facts["python"] = _minor(device.kernel), _minor(device.python)
    facts["memory_bytes"] = round((device.memory_bytes or 0) / MEMORY_STEP)
    facts["runtimes"] = {
        name: version for name, version in device.runtimes.items() if name not in BESIDE
    }
    for gpu in facts["gpus"]:
        del gpu["uuid_hash"]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _minor(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])


def environment(
    device: Device,
    session: SessionOptions,
    batch: int,
    options: Mapping[str, str] | None = None,
) -> Environment:
    """The device with the batch and threads that figures are measured at.

    Args:
        session: how models are run.
        options: further settings that the figures depend on.
    """
    return Environment(
        cpu=device.cpu.model,
        cores=device.cpu.cores or 0,
        memory_bytes=device.memory_bytes or 0,
        os=" ".join(filter(None, (device.os, device.kernel, device.arch))),
        python=device.python or "",
        runtimes=device.runtimes,
        batch=batch,
        threads=session.threads,
        options=dict(options or {}),
    )


def physical_cores() -> int:
    """Physical cores that this process may use, at least 1: the default number of threads."""
    return probe.physical_cores()
