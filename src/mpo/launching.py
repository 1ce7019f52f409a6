"""Whether a launcher started this process beside others, as torchrun tells it by the environment
(and accelerate, whose launch of several processes goes through torchrun)."""

from __future__ import annotations

import os
import shlex


def launched() -> bool:
    """Whether a launcher started this process beside others."""
    size = os.environ.get("WORLD_SIZE", "1")
    return size.isdigit() and int(size) > 1 and "RANK" in os.environ


def beside() -> int:
    """How many processes of the launcher share this machine; 1 without one."""
    size = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return int(size) if launched() and size.isdigit() and size != "0" else 1


def command_again(arguments: list[str]) -> str:
    """The command line that starts mpo with these arguments as this process was started; of
    several machines and of other launchers only their part of it is known."""
    command = shlex.join(["mpo", *arguments])
    if not launched():
        return command
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        return f"torchrun --nproc_per_node {beside()} -m {command}"
    return f"the same launcher, -m {command}"
