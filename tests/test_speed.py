"""Allocation for speed against enumeration of every plan."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edgekit.models.errors import InputError
from edgekit.models.spec import TensorSpec
from edgekit.quant.formats import FORMATS
from edgekit.quant.plan import Budget, Candidate, Sensitivity
from edgekit.quant.speed import DecodeTime, allocate_for_speed, require_possible_speed

NAMES = tuple(format.name for format in FORMATS)
ROLES = ("head", "q", "down", "embedding", "o")


def instance(seed: int) -> list[Sensitivity]:
    generator = np.random.default_rng(seed)
    rows = []
    for index, role in enumerate(ROLES):
        sizes, kls = 32 * generator.integers(1, 1000, 4), generator.exponential(1.0, 4)
        named = zip(NAMES, sizes.tolist(), (kls / np.sqrt(sizes)).tolist(), strict=False)
        candidates = sorted((Candidate(*entry) for entry in named), key=lambda c: (c.bytes, c.kl))
        rows.append(Sensitivity(f"m{index}", role, None, tuple(candidates), (10, 100 * (index + 1))))
    return rows


def decode_time(seed: int, tied: bool = False) -> DecodeTime:
    generator = np.random.default_rng(seed)
    arithmetic = dict(zip(NAMES, generator.uniform(0, 1e-8, 4).tolist(), strict=False))
    return DecodeTime(math.inf, 1e-9, arithmetic, () if tied else ("embedding",))


def limited(time: DecodeTime, max_seconds: float) -> DecodeTime:
    return DecodeTime(max_seconds, time.seconds_per_byte, time.seconds_per_weight, time.lookup_roles)


def every_plan(table: list[Sensitivity], time: DecodeTime) -> list[tuple[float, int, float]]:
    """Seconds, bytes and KL of every plan: the oracle."""
    choices = [[(time.seconds(s, c), c.bytes, c.kl) for c in s.candidates] for s in table]
    return [
        (math.fsum(seconds), sum(sizes), math.fsum(kls))
        for seconds, sizes, kls in (zip(*plan, strict=True) for plan in itertools.product(*choices))
    ]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_without_a_binding_size_the_plan_is_the_best_of_all(seed: int, tied: bool) -> None:
    table, time = instance(seed), decode_time(seed + 100, tied)
    plans = every_plan(table, time)
    least, most = min(seconds for seconds, _, _ in plans), max(seconds for seconds, _, _ in plans)
    for share in (0.1, 0.3, 0.6):
        limit = least + share * (most - least) + 1e-11
        best = min(kl for seconds, _, kl in plans if seconds <= limit)
        found = allocate_for_speed(table, Budget(max_bytes=10**9), limited(time, limit), 77)
        assert found.kl == pytest.approx(best, rel=1e-9)
        assert time.total(table, found.formats) <= limit
        assert found.bytes == 77 + sum(
            c.bytes for s in table for c in s.candidates if c.format == found.formats[s.name]
        )
        max_kl = 1.2 * best
        found = allocate_for_speed(table, Budget(max_kl=max_kl), limited(time, limit))
        fastest = min(seconds for seconds, _, kl in plans if kl <= max_kl)
        assert found.kl is not None and found.kl <= max_kl and found.note is None
        assert time.total(table, found.formats) == pytest.approx(fastest, rel=1e-6)
        found = allocate_for_speed(table, Budget(max_kl=0.9 * best), limited(time, limit))
        assert found.kl == pytest.approx(best, rel=1e-9) and found.note is not None


@pytest.mark.parametrize("seed", range(20))
def test_both_limits_are_kept_where_the_bytes_bind(seed: int) -> None:
    """Within both limits, near the best, and never better than it; found wherever there is one."""
    table, time = instance(seed), decode_time(seed + 100)
    plans = every_plan(table, time)
    least, most = min(seconds for seconds, _, _ in plans), max(seconds for seconds, _, _ in plans)
    limit = least + 0.5 * (most - least) + 1e-11
    smallest = min(size for seconds, size, _ in plans if seconds <= limit)
    unbound = min((kl, size) for seconds, size, kl in plans if seconds <= limit)[1]
    for share in (0.0, 0.2, 0.5, 0.8):
        max_bytes = int(smallest + share * (unbound - smallest))
        best = min(kl for seconds, size, kl in plans if seconds <= limit and size <= max_bytes)
        found = allocate_for_speed(table, Budget(max_bytes=max_bytes), limited(time, limit))
        assert found.bytes <= max_bytes and time.total(table, found.formats) <= limit
        assert found.kl is not None and best * (1 - 1e-9) <= found.kl <= 2 * best
        max_kl = 2 * best
        found = allocate_for_speed(table, Budget(max_bytes=max_bytes, max_kl=max_kl), limited(time, limit))
        assert found.bytes <= max_bytes and time.total(table, found.formats) <= limit
        assert found.kl is not None and found.kl <= max_kl and found.note is None


def test_a_lookup_table_is_free_and_a_slow_type_is_not() -> None:
    pair = (Candidate("q4_0", 1000, 1.0), Candidate("iq4_nl", 1000, 0.5), Candidate("q8_0", 2000, 0.1))
    table = [Sensitivity("table", "embedding", None, pair, (10, 200)), Sensitivity("m", "q", 0, pair, (10, 200))]
    time = DecodeTime(1.21e-6, 1e-9, {"q4_0": 1e-10, "q8_0": 1e-10, "iq4_nl": 2e-10}, ("embedding",))
    found = allocate_for_speed(table, Budget(), time)
    assert found.formats == {"table": "q8_0", "m": "q4_0"}  # 1.2 us; iq4_nl takes 1.4
    assert allocate_for_speed(table, Budget(), limited(time, 1.41e-6)).formats["m"] == "iq4_nl"
    with pytest.raises(InputError, match=r"8\.333e\+05 on this device: lower --tps"):
        allocate_for_speed(table, Budget(), limited(time, 1.1e-6))
    with pytest.raises(InputError, match=r"memory takes a file of 2,500 bytes, and the smallest .* is 2,600"):
        allocate_for_speed(table, Budget(max_bytes=2500), time, 600)
    unknown = DecodeTime(1.21e-6, 1e-9, {"q4_0": 1e-10, "q8_0": 1e-10}, ("embedding",))
    assert allocate_for_speed(table, Budget(), unknown).formats["m"] == "iq4_nl"  # as slow as the slowest that is known


def test_impossible_limits_are_known_before_anything_is_measured() -> None:
    """From shapes alone: either limit, and both together, on either side."""
    tensors = [TensorSpec(name, name, (1024, 256), "q", 0) for name in "ab"]
    smallest = 2 * 1024 * 144
    time = DecodeTime(1e-9 * smallest + 1e-11, 1e-9)
    require_possible_speed(tensors, Budget(max_bytes=smallest + 50), time, 50)
    with pytest.raises(InputError, match="lower --tps"):
        require_possible_speed(tensors, Budget(), limited(time, 0.99e-9 * smallest))
    with pytest.raises(InputError, match="shorten --context"):
        require_possible_speed(tensors, Budget(max_bytes=smallest + 49), time, 50)
    slow = DecodeTime(4.3e-4, 1e-9, {"q4_k": 1e-9, "q5_k": 1e-10})
    with pytest.raises(InputError, match="no plan decodes"):
        require_possible_speed(tensors, Budget(max_bytes=smallest, formats=("q4_k", "q5_k")), slow)


def test_no_plan_keeps_to_both() -> None:
    row = (Candidate("q4_0", 1000, 1.0), Candidate("iq4_nl", 900, 0.5))
    table = [Sensitivity("m", "q", 0, row, (10, 200))]
    time = DecodeTime(1.0e-6, 1e-10, {"q4_0": 1e-10, "iq4_nl": 2e-9})
    with pytest.raises(InputError, match=r"no plan decodes 1e\+06 tokens per second within 950 bytes"):
        allocate_for_speed(table, Budget(max_bytes=950), time)
