"""The shipped presets: published facts, each with its source, none measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mpo.errors import UsageError
from mpo.profiles import presets

# What says how the profile came about, and no figure of the device.
OWN = {"schema", "target", "created", "expires_after_days", "fingerprint", "measured"}


def figures(value: Any, name: str = "") -> Iterator[str]:
    """The dotted names of all that a record tells."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from figures(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for key, item in enumerate(value):
            yield from figures(item, f"{name}.{key}")
    elif value not in (None, [], {}, "unknown"):
        yield name


def test_the_common_edge_devices_are_there() -> None:
    assert set(presets.names()) >= {
        "jetson-agx-orin-64gb", "jetson-orin-nx-16gb", "jetson-orin-nano-8gb",
        "jetson-xavier-nx-8gb", "raspberry-pi-4-8gb", "raspberry-pi-5-8gb", "intel-n100",
        "imx8m-plus",
    }  # fmt: skip


@pytest.mark.parametrize("name", presets.names())
def test_every_figure_of_a_preset_has_a_source_and_every_source_a_figure(name: str) -> None:
    profile = presets.load(name)
    assert (profile.target, profile.measured, profile.noise) == (name, False, None)
    written = profile.model_dump(mode="json", exclude={"sources"})
    told = set(figures({key: item for key, item in written.items() if key not in OWN}))
    backed = {fact for source in profile.sources for fact in source.facts}
    assert told == backed
    assert all(source.title and source.publisher and source.date for source in profile.sources)


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_s_figures_are_of_a_real_size(name: str) -> None:
    profile = presets.load(name)
    assert profile.device.cpu.cores is not None
    assert 2 <= profile.device.cpu.cores <= 16
    if profile.device.memory_bytes is not None:
        assert 10**9 <= profile.device.memory_bytes <= 128 * 10**9
    if profile.limits is not None:
        assert profile.limits.memory_bandwidth_bytes_s is not None
        assert 1e9 < profile.limits.memory_bandwidth_bytes_s < 1e12


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no preset 'raspbery-pi-5'") as caught:
        presets.load("raspbery-pi-5")
    assert "raspberry-pi-5-8gb" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        presets.load("zzz")
    assert "intel-n100" in caught.value.hint
