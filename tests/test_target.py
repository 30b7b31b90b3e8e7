"""What follows from a device and an objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import InputError, Target
from edgekit.devices.budget import file_bytes_by_ram
from edgekit.devices.profile import load_device
from edgekit.models.checkpoint import open_checkpoint
from edgekit.target import budget_of, device_limit

SPEC = open_checkpoint(Path(__file__).parent / "assets" / "sample").spec


def test_for_size_the_bandwidth_limits_the_file() -> None:
    target = Target(device="pi4b", tps=100)
    limit = device_limit(target, SPEC)
    assert limit is not None and limit.time is None
    assert budget_of(target, limit).max_bytes == limit.limit.bytes == 55_000_000


def test_for_speed_the_memory_limits_the_file_and_the_time_is_a_budget_of_its_own() -> None:
    target = Target(device="pi4b", tps=100, objective="speed", max_kl=0.01)
    limit = device_limit(target, SPEC)
    assert limit is not None and limit.time is not None
    device = load_device("pi4b")
    assert limit.limit == file_bytes_by_ram(device, SPEC, context=1024)
    budget = budget_of(target, limit)
    assert (budget.max_bytes, budget.max_kl) == (limit.limit.bytes, 0.01)
    assert (limit.time.max_seconds, limit.time.seconds_per_byte) == (0.01, 1 / 5.5e9)
    assert limit.time.seconds_per_weight["q4_0"] == pytest.approx(4.78 / 32 / 4 / 1.5e9)
    assert limit.time.lookup_roles == ()
    untied = device_limit(target, replace(SPEC, tied=False))
    assert untied is not None and untied.time is not None and untied.time.lookup_roles == ("embedding",)


def test_llama_cpp_on_a_raspberry_pi_4_is_as_slow_as_the_model_says() -> None:
    """Reading and arithmetic added up: 11.8 modelled cycles a block of Q4_0 give what was seen, 3.2 to 3.5 GB/s."""
    device = load_device("pi4b")
    assert device.clock_hz is not None and device.llama_cpp_bytes_per_s is not None
    block_s = 18 / device.bandwidth_bytes_per_s + 11.8 / (device.cores * device.clock_hz)
    assert 18 / block_s == pytest.approx(device.llama_cpp_bytes_per_s, rel=0.06)


def test_an_objective_needs_a_device_and_a_name_that_is_known() -> None:
    with pytest.raises(InputError, match="--objective speed needs a --device"):
        Target(size_bytes=10**6, objective="speed")
    with pytest.raises(InputError, match="choose size or speed"):
        Target(device="pi4b", objective="quality")
