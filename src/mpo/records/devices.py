"""What figures were measured on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mpo.records.base import Record


class Environment(Record):
    """The machine and runtime that the figures were measured on."""

    cpu: str
    cores: int
    memory_bytes: int
    os: str
    python: str
    runtimes: dict[str, str]
    batch: int
    threads: int
    options: dict[str, str] = Field(default_factory=dict)


class SessionOptions(Record):
    """How a model is exported for and opened by the runtime; latency and memory hold for these
    options only.

    Attributes:
        runner: which of the exporters' registry runs the file; the options below `threads` are of
            "onnx".
        device: "cpu" or "cuda:N".
        threads: of one inference.
        arena: the runtime keeps freed memory for its next call.
        spinning: idle threads wait busily for work.
        prepacking: the runtime keeps weights in its kernels' own layout, a copy of each.
        optimization: how far the runtime rewrites the graph while it loads it; "all" brings weights
            into a layout that this processor likes, which copies them.
        mmap_threshold_bytes: blocks of this size go back to the system when freed (glibc's
            MALLOC_MMAP_THRESHOLD_, in the environment of the process); None leaves glibc's own
            rule, which keeps more the longer it runs.
        external_weights: the weights lie in a file beside the graph and are mapped from disk.
    """

    runner: str = "onnx"
    device: str = "cpu"
    threads: int = 1
    arena: bool = True
    spinning: bool = True
    prepacking: bool = True
    optimization: Literal["all", "extended", "basic", "none"] = "all"
    mmap_threshold_bytes: int | None = Field(default=None, ge=4096)
    external_weights: bool = False


class Cpu(Record):
    """A device's processor, as one process there may use it.

    Attributes:
        model: its own name; on ARM the cores' names.
        cores: logical cores that a process may use: affinity and cgroup quota; None when unknown.
        physical_cores: of them, each core once: the default number of threads.
        isa: vector and matrix extensions that runtimes choose their kernels by.
        governor: of the clock; None where the system shows none (virtual machines).
        max_mhz: the highest clock that is allowed now.
        cgroup_cores, cgroup_memory_bytes: a container's limits; None without one.
    """

    model: str
    cores: int | None = Field(default=None, ge=1)
    physical_cores: int | None = Field(default=None, ge=1)
    isa: tuple[str, ...] = ()
    governor: str | None = None
    max_mhz: float | None = Field(default=None, gt=0)
    cgroup_cores: float | None = Field(default=None, gt=0)
    cgroup_memory_bytes: int | None = Field(default=None, gt=0)


class Gpu(Record):
    """One GPU.

    Attributes:
        memory_bytes: its own; None when it shares the device's.
        sm: compute capability, "8.7".
        uuid_hash: tells two alike apart without naming either: sha256 of its UUID, 16 digits.
    """

    name: str
    memory_bytes: int | None = Field(default=None, gt=0)
    sm: str | None = None
    driver: str | None = None
    uuid_hash: str | None = None


class Jetson(Record):
    """What an NVIDIA Jetson says of itself.

    Attributes:
        module: "NVIDIA Jetson Orin Nano Developer Kit".
        l4t: release of Jetson Linux, "36.4.3".
        jetpack: version of the nvidia-jetpack package, when it is installed.
        power_mode: as nvpmodel names it.
    """

    module: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None


class Device(Record):
    """Everything that tells a device apart; no host or user names.

    Attributes:
        arch: "x86_64", "aarch64".
        memory_bytes: of the machine, or the container's limit when lower.
        runtimes: versions of what runs models there, by name.
        providers: onnxruntime's execution providers, in its order.
    """

    arch: str
    os: str
    kernel: str | None = None
    python: str | None = None
    cpu: Cpu
    memory_bytes: int | None = Field(default=None, gt=0)
    gpus: tuple[Gpu, ...] = ()
    jetson: Jetson | None = None
    runtimes: dict[str, str] = Field(default_factory=dict)
    providers: tuple[str, ...] = ()
