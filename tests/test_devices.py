"""Device profiles, what is predicted from them, and the file budget, against arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit import _native
from edgekit.devices import host
from edgekit.devices.budget import file_bytes_by_ram, max_file_bytes
from edgekit.devices.predict import (
    cache_bytes,
    lookup_parameters,
    overhead_bytes,
    parameters,
    predict_decode,
    predict_run,
    ram_bytes,
    seconds_per_weight,
)
from edgekit.devices.profile import Device, device_names, load_device
from edgekit.devices.result import Reads
from edgekit.models.errors import InputError
from edgekit.models.spec import ModelSpec, Rope
from edgekit.quant.formats import FORMATS
from edgekit.quant.plan import Candidate, Sensitivity
from edgekit.quant.speed import DecodeTime

SPEC = ModelSpec(
    family="llama",
    layers=2,
    hidden=64,
    heads=(8, 8),
    kv_heads=(4, 4),
    head_dim=16,
    ffn=(128, 128),
    vocab=1000,
    context=8192,
    norm_eps=1e-5,
    rope=Rope(10000.0),
    tied=False,
)
DEVICE = Device("board", "A board", ("armv8.0",), 4, 1_000_000_000, 4e9, {})
PROFILE = """
title = "A board"
isa = ["armv8.0"]
cores = 4
ram_bytes = 1_000_000_000
bandwidth_bytes_per_s = 4e9
[sources]
cores = "counted"
ram_bytes = "printed on it"
bandwidth_bytes_per_s = "an estimate"
"""
COMPUTE = """clock_hz = 1e9
cycles_per_block = { q4_0 = 5, q8_0 = 4.5 }
[sources]
clock_hz = "printed on it"
cycles_per_block = "counted"
"""


def test_the_profiles_that_come_along() -> None:
    assert set(device_names()) == {"pi4b", "pi5", "sd865", "generic-arm64", "host"}


@pytest.mark.parametrize("name", device_names())
def test_every_figure_has_a_source(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert {"isa", "cores", "ram_bytes", "bandwidth_bytes_per_s"} <= device.sources.keys()
    assert ("llama_cpp_bytes_per_s" in device.sources) == (device.llama_cpp_bytes_per_s is not None)
    assert ("cycles_per_block" in device.sources) == bool(device.cycles_per_block)
    assert ("clock_hz" in device.sources) == (device.clock_hz is not None)
    assert set(device.cycles_per_block) in (set(), {format.name for format in FORMATS})
    assert all(len(text) > 5 for text in device.sources.values())
    assert device.llama_cpp_bytes_per_s is None or device.llama_cpp_bytes_per_s <= device.bandwidth_bytes_per_s


def test_the_host_is_measured() -> None:
    device = load_device("host")
    assert 1e9 < device.bandwidth_bytes_per_s < 5e12
    assert "measured" in device.sources["bandwidth_bytes_per_s"]
    assert device.ram_bytes == host.ram_bytes() > 2**28
    assert device.cores >= 1
    assert host.measure_bandwidth() == device.bandwidth_bytes_per_s  # once per process


def test_the_measured_loop_is_not_slower_than_a_copy() -> None:
    """A memory copy reads what it copies: no read loop that does less may come out much slower."""
    import time

    source = np.ones(16 << 20, np.uint64)
    target = np.empty_like(source)
    best = np.inf
    for _ in range(4):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    assert host.measure_bandwidth() > 0.3 * source.nbytes / best


def test_passes_over_memory() -> None:
    seconds = _native.read_passes(8, 5, threads=2)
    assert len(seconds) == 5
    assert all((8 << 20) / 5e12 < each < 1 for each in seconds)
    assert min(_native.read_passes(64, 3)) > min(_native.read_passes(1, 3))
    for mebibytes in (1 << 40, 1 << 63):
        with pytest.raises(MemoryError):
            _native.read_passes(mebibytes, 1)


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(PROFILE)
    device = load_device(path)
    assert (device.name, device.cores, device.ram_bytes) == ("board", 4, 1_000_000_000)
    assert (device.bandwidth_bytes_per_s, device.llama_cpp_bytes_per_s) == (4e9, None)
    path.write_text(PROFILE.replace("[sources]", "llama_cpp_bytes_per_s = 2e9\n[sources]"))
    assert load_device(str(path)).llama_cpp_bytes_per_s == 2e9
    path.write_text(PROFILE.replace("[sources]", COMPUTE))
    assert load_device(path).clock_hz == 1e9 and load_device(path).cycles_per_block == {"q4_0": 5.0, "q8_0": 4.5}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title", "titel", "has no title"),
        ("cores = 4", "cores = 4.5", "cores must be a whole number"),
        ("cores = 4", "cores = true", "cores must be a whole number"),
        ("cores = 4", "cores = 0", "cores must be"),
        ("ram_bytes = 1_000_000_000", "ram_bytes = -1", "ram_bytes must be"),
        ("ram_bytes = 1_000_000_000", 'ram_bytes = "1 GB"', "ram_bytes must be"),
        ("= 4e9", "= nan", "bandwidth_bytes_per_s must be"),
        ("= 4e9", "= inf", "bandwidth_bytes_per_s must be"),
        ("= 4e9", "= 0", "bandwidth_bytes_per_s must be"),
        ('isa = ["armv8.0"]', 'isa = "armv8.0"', "isa must be a list"),
        ('isa = ["armv8.0"]', "isa = []", "isa must be a list"),
        ('title = "A board"', "title = 3", "title must be a text"),
        ("cores = 4", "cores = 4\ncolour = 3", "unknown keys: colour"),
        ('cores = "counted"', "", r"\[sources\] says nothing of cores"),
        ('cores = "counted"', "cores = 3", "sources must be"),
        ("[sources]", "[sources", "not a TOML file"),
        ("[sources]", "clock_hz = 1e9\n[sources]", "has no cycles_per_block"),
        ("[sources]", COMPUTE.replace("{ q4_0 = 5, q8_0 = 4.5 }", "5"), "cycles_per_block must be a table"),
        ("[sources]", COMPUTE.replace("4.5", "0"), "q8_0 must be a number"),
        ("[sources]", COMPUTE.replace('clock_hz = "printed on it"', ""), r"\[sources\] says nothing of clock_hz"),
    ],
)
def test_a_profile_with_a_mistake(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    assert old in PROFILE
    path.write_text(PROFILE.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_device(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["pi9", "", "../pi4b", "none.toml", "/"])
def test_an_unknown_device(name: str) -> None:
    with pytest.raises(InputError, match="choose one of generic-arm64, host, pi4b, pi5, sd865"):
        load_device(name)


def test_parameters_by_hand() -> None:
    layer = 64 * (8 * 16) + 2 * 64 * (4 * 16) + (8 * 16) * 64 + 3 * 64 * 128
    assert parameters(SPEC) == 2 * 1000 * 64 + 2 * layer
    assert parameters(replace(SPEC, tied=True)) == 1000 * 64 + 2 * layer
    assert (lookup_parameters(SPEC), lookup_parameters(replace(SPEC, tied=True))) == (64_000, 0)


def test_the_attention_cache_by_hand() -> None:
    per_position = 2 * 4 * 16 * 2  # keys and values, heads, dimensions, bytes
    assert cache_bytes(SPEC, 1024) == 2 * 1024 * per_position
    assert cache_bytes(SPEC, 1000) == 2 * 1024 * per_position  # whole cells of 256
    sliding = replace(SPEC, window=300, sliding=(True, False))
    assert cache_bytes(sliding, 4096) == (1024 + 4096) * per_position  # 300 + 512 -> 1024
    assert cache_bytes(sliding, 512) == (512 + 512) * per_position


def test_decoding_is_bytes_over_bandwidth() -> None:
    prediction = predict_decode(DEVICE, SPEC, 100_000_000)
    assert (prediction.decode_tps, prediction.ceiling_tps, prediction.bound_by) == (40.0, 40.0, "memory")
    slow = predict_decode(replace(DEVICE, llama_cpp_bytes_per_s=1e9), SPEC, 100_000_000)
    assert (slow.decode_tps, slow.ceiling_tps, slow.bound_by) == (10.0, 40.0, "compute")
    for text in (prediction.explanation, slow.explanation):
        assert "prediction" in text


def test_the_cache_is_read_as_well() -> None:
    sliding = replace(SPEC, window=300, sliding=(True, False))
    per_position = 2 * 4 * 16 * 2
    read = (300 + 2000) * per_position
    assert predict_decode(DEVICE, sliding, 10**6, position=2000).decode_tps == pytest.approx(4e9 / (10**6 + read))
    assert predict_decode(DEVICE, sliding, 10**6, position=100).decode_tps == pytest.approx(
        4e9 / (10**6 + 200 * per_position)
    )


def test_a_run_is_reading_and_arithmetic_added_up() -> None:
    device = replace(DEVICE, clock_hz=1e9, cycles_per_block={"q4_0": 4.0, "q8_0": 8.0})
    reads = Reads({"Q4_0": 18_000_000, "Q8_0": 34_000_000, "F32": 1280}, 3_998_720)
    found = predict_run(device, reads)
    assert found.memory_s == pytest.approx(56e6 / 4e9)
    # a million blocks of 32 weights each; F32, of which the profile says nothing, is as slow as the slowest
    assert found.compute_s == pytest.approx((1e6 * 4 + 1e6 * 8 + 10 * 8) / 4 / 1e9)
    assert (found.decode_tps, found.bound_by) == (pytest.approx(1 / (found.memory_s + found.compute_s)), "memory")
    slow = predict_run(replace(device, clock_hz=1e8), reads)
    assert slow.bound_by == "compute" and slow.memory_s == found.memory_s
    unknown = predict_run(DEVICE, reads)
    assert (unknown.compute_s, unknown.bound_by, unknown.decode_tps) == (None, "memory", pytest.approx(4e9 / 56e6))
    for each in (found, slow, unknown):
        assert "(a prediction)" in each.explanation and "4.0 MB of it attention cache" in each.explanation


@pytest.mark.parametrize("name", ["pi4b", "pi5", "sd865"])
def test_a_run_is_predicted_as_a_plan_for_speed_is(name: str) -> None:
    """`plan --objective speed` and `bench` tell one figure for one file."""
    device = load_device(name)
    sizes = {"q4_0": 18 * 2**20, "q6_k": 210 * 2**17, "q8_0": 34 * 2**20}  # bytes of 32 Mi weights
    table = [Sensitivity(kind, "ffn", 0, (Candidate(kind, size, 0.0),), (32, 2**20)) for kind, size in sizes.items()]
    time = DecodeTime(1.0, 1 / device.bandwidth_bytes_per_s, seconds_per_weight(device))
    planned = time.total(table, {kind: kind for kind in sizes})
    run = predict_run(device, Reads({kind.upper(): size for kind, size in sizes.items()}, 0))
    assert run.decode_tps == pytest.approx(1 / planned)


def test_the_file_that_bandwidth_allows() -> None:
    tied = max_file_bytes(DEVICE, replace(SPEC, tied=True), tps=20)
    assert (tied.bytes, tied.bound_by) == (200_000_000, "bandwidth")
    assert "20 tokens/s" in tied.explanation
    # an untied table is a third or so of this model and not read
    untied = max_file_bytes(DEVICE, SPEC, tps=20)
    read = untied.bytes * (1 - 64_000 / parameters(SPEC))
    assert read == pytest.approx(200_000_000)
    assert "not read whole" in untied.explanation


def test_the_file_that_memory_allows() -> None:
    limit = max_file_bytes(DEVICE, SPEC, tps=1, context=4096)
    assert (limit.bytes, limit.bound_by) == (500_000_000 - overhead_bytes(SPEC, 4096), "ram")
    assert ram_bytes(SPEC, limit.bytes, 4096) == 500_000_000
    assert max_file_bytes(DEVICE, SPEC, tps=1, context=8192).bytes < limit.bytes
    assert max_file_bytes(DEVICE, SPEC, tps=1, share=0.8).bytes == limit.bytes + 300_000_000


def test_the_file_that_memory_allows_however_fast_it_is_read() -> None:
    assert max_file_bytes(DEVICE, SPEC, tps=1000).bound_by == "bandwidth"
    assert file_bytes_by_ram(DEVICE, SPEC) == max_file_bytes(DEVICE, SPEC, tps=1)


def test_arithmetic_by_hand() -> None:
    assert seconds_per_weight(DEVICE) == {}
    device = replace(DEVICE, clock_hz=1e9, cycles_per_block={"q4_0": 4.0, "q8_0": 3.2})
    assert seconds_per_weight(device) == pytest.approx({"q4_0": 4 / 32 / 4e9, "q8_0": 3.2 / 32 / 4e9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tps": 0}, "--tps"),
        ({"tps": float("nan")}, "--tps"),
        ({"tps": float("inf")}, "--tps"),
        ({"tps": 15, "share": 0}, "share"),
        ({"tps": 15, "share": 1.5}, "share"),
        ({"tps": 15, "context": 0}, "--context"),
        ({"tps": 15, "context": 8193}, "--context 8193 is out of range: this model takes 1 to 8192"),
    ],
)
def test_budget_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        max_file_bytes(DEVICE, SPEC, **options)


def test_a_device_with_no_room() -> None:
    small = replace(DEVICE, ram_bytes=100_000_000)
    with pytest.raises(InputError, match="shorter --context"):
        max_file_bytes(small, SPEC, tps=15)
