"""The allocation against enumeration of every plan, and the budgets it must keep to."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.models.errors import InputError
from edgekit.models.spec import TensorSpec
from edgekit.quant import knapsack
from edgekit.quant.allocation import Allocation, allocate, frontier, require_possible, uniform
from edgekit.quant.candidates import candidate_formats, carried_formats, fallback
from edgekit.quant.containers import GGUF, ONNX
from edgekit.quant.formats import FORMATS, format_of
from edgekit.quant.plan import Budget, Candidate, Sensitivity, priced

NAMES = tuple(format.name for format in FORMATS)


def matrix(name: str, *candidates: tuple[int, float]) -> Sensitivity:
    """Candidates of those bytes and KLs, under any formats' names."""
    named = zip(NAMES, candidates, strict=False)
    return Sensitivity(name, "q", 0, tuple(Candidate(format, size, kl) for format, (size, kl) in named), (0, 0))


def picks(sensitivities: list[Sensitivity], allocation: Allocation) -> list[Candidate]:
    return [
        next(c for c in sensitivity.candidates if c.format == allocation.formats[sensitivity.name])
        for sensitivity in sensitivities
    ]


def every_plan(sensitivities: list[Sensitivity]) -> list[tuple[int, float]]:
    """Bytes and KL of every possible plan: the oracle."""
    return [
        (sum(c.bytes for c in plan), math.fsum(c.kl for c in plan))
        for plan in itertools.product(*(sensitivity.candidates for sensitivity in sensitivities))
    ]


candidates_strategy = st.lists(
    st.tuples(
        st.integers(min_value=1, max_value=40),
        st.one_of(st.integers(min_value=0, max_value=9).map(float), st.floats(min_value=1e-9, max_value=1e-1)),
    ),
    min_size=1,
    max_size=4,
)
instances = st.lists(candidates_strategy, min_size=1, max_size=6).map(
    lambda rows: [matrix(f"m{i}", *((32 * size, kl) for size, kl in row)) for i, row in enumerate(rows)]
)


@settings(max_examples=150, deadline=None)
@given(instances, st.floats(min_value=0, max_value=1.05), st.integers(min_value=0, max_value=100))
def test_least_kl_within_the_bytes_is_optimal(instance: list[Sensitivity], share: float, fixed: int) -> None:
    plans = every_plan(instance)
    smallest, largest = min(size for size, _ in plans), max(size for size, _ in plans)
    limit = fixed + smallest + int(share * (largest - smallest))
    allocation = allocate(instance, Budget(max_bytes=limit), fixed)
    chosen = picks(instance, allocation)
    best = min(kl for size, kl in plans if fixed + size <= limit)
    assert allocation.bytes == fixed + sum(c.bytes for c in chosen) <= limit
    assert allocation.kl == pytest.approx(math.fsum(c.kl for c in chosen), rel=1e-12)
    assert allocation.kl <= best * (1 + 1e-9)
    assert allocation.note is None
    for index, current in enumerate(chosen):  # what is left over buys nothing that does no harm
        for other in instance[index].candidates:
            wider = other.bytes > current.bytes and other.kl <= current.kl
            assert not (wider and allocation.bytes - current.bytes + other.bytes <= limit)


@settings(max_examples=150, deadline=None)
@given(instances, st.floats(min_value=0, max_value=1.05), st.floats(min_value=0, max_value=1))
def test_fewest_bytes_for_a_kl_is_optimal(instance: list[Sensitivity], share: float, room: float) -> None:
    plans = every_plan(instance)
    least, most = min(kl for _, kl in plans), max(kl for _, kl in plans)
    max_kl = least + share * (most - least) + 1e-12
    smallest, largest = min(size for size, _ in plans), max(size for size, _ in plans)
    limit = smallest + int(room * (largest - smallest))
    allocation = allocate(instance, Budget(max_bytes=limit, max_kl=max_kl), 0)
    assert allocation.bytes <= limit
    fitting = [size for size, kl in plans if size <= limit and kl <= max_kl * (1 - 1e-9)]
    assert allocation.kl is not None
    if fitting:
        assert allocation.bytes <= min(fitting)
        assert allocation.kl <= max_kl and allocation.note is None
    elif allocation.note is not None:
        assert f"{max_kl:g}" in allocation.note
        assert allocation.kl <= min(kl for size, kl in plans if size <= limit) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_hard_instances_are_solved_exactly(seed: int) -> None:
    """Sizes and KLs of no pattern, where walking down the convex hulls is seldom optimal; all 5^6 plans enumerated."""
    generator = np.random.default_rng(seed)
    sizes = 32 * generator.integers(1, 1000, (6, 5))
    kls = generator.exponential(1.0, (6, 5)) / np.sqrt(sizes)
    instance = [matrix(f"m{i}", *zip(sizes[i].tolist(), kls[i].tolist(), strict=True)) for i in range(6)]
    total_size, total_kl = np.zeros(1, np.int64), np.zeros(1)
    for row in range(6):
        total_size = (total_size[:, None] + sizes[row]).ravel()
        total_kl = (total_kl[:, None] + kls[row]).ravel()
    for share in (0.1, 0.3, 0.5):
        limit = int((1 - share) * total_size.min() + share * total_size.max())
        best = total_kl[total_size <= limit].min()
        allocation = allocate(instance, Budget(max_bytes=limit))
        assert allocation.bytes <= limit
        assert allocation.kl == pytest.approx(best, rel=1e-9)
        smallest = int(total_size[total_kl <= best * 1.3].min())
        assert allocate(instance, Budget(max_kl=best * 1.3)).bytes == smallest


def test_a_kl_limit_without_a_size_limit() -> None:
    instance = [matrix("a", (32, 4.0), (64, 1.0), (96, 0.0)), matrix("b", (32, 3.0), (320, 0.5))]
    assert allocate(instance, Budget(max_kl=4.0)).bytes == 64 + 32
    allocation = allocate(instance, Budget(max_kl=0.1))
    assert allocation.bytes == 96 + 320
    assert allocation.note is not None and "0.1" in allocation.note and "0.5" in allocation.note


def test_no_limit_takes_the_best() -> None:
    instance = [matrix("a", (32, 4.0), (64, 1.0), (96, 2.0))]
    assert allocate(instance, Budget()).bytes == 64


def test_exact_bytes() -> None:
    instance = [matrix(f"m{i}", (32, 4.0), (64, 1.0)) for i in range(5)]
    assert allocate(instance, Budget(max_bytes=1000 + 8 * 32), 1000).bytes == 1000 + 8 * 32
    assert allocate(instance, Budget(max_bytes=1000 + 8 * 32 - 1), 1000).bytes == 1000 + 7 * 32


def test_an_impossible_size_names_the_smallest_file() -> None:
    instance = [matrix("a", (123_456_000, 1.0), (133_456_000, 0.1)), matrix("b", (320, 1.0))]
    with pytest.raises(InputError, match=r"10,000,000 bytes are too few.*is 123,456,789 bytes"):
        allocate(instance, Budget(max_bytes=10_000_000), 469)
    assert allocate(instance, Budget(max_bytes=123_456_789), 469).bytes == 123_456_789


@pytest.mark.parametrize("names", [(), ("q4_0", "q8_0"), ("q4_k", "q6_k"), ("q8_0",)])
def test_an_impossible_budget_is_known_before_anything_is_measured(names: tuple[str, ...]) -> None:
    """The same verdict and the same sentence as `allocate` has, on either side of the smallest file."""
    instance = real_instance(9, seed=0, names=names or candidate_formats())
    tensors = [TensorSpec(s.name, s.name, s.shape, "q", s.layer) for s in instance]
    smallest = 500 + sum(s.candidates[0].bytes for s in instance)
    require_possible(tensors, Budget(max_bytes=smallest, formats=names), 500)
    require_possible(tensors, Budget(max_kl=0.1, formats=names), 500)
    for budget in (Budget(max_bytes=smallest - 1, formats=names), Budget(max_bpw=4.4, formats=names)):
        with pytest.raises(InputError) as early:
            require_possible(tensors, budget, 500)
        with pytest.raises(InputError) as late:
            allocate(instance, budget, 500)
        assert str(early.value) == str(late.value)


def test_a_kl_that_is_not_a_number() -> None:
    with pytest.raises(InputError, match='"a" is not a finite number'):
        allocate([matrix("a", (32, math.nan))], Budget(max_bytes=100))


def test_size_and_bits_exclude_each_other() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        allocate([matrix("a", (32, 1.0))], Budget(max_bytes=100, max_bpw=4.5))


def test_leftover_bytes_go_where_they_do_no_harm() -> None:
    """Matrices of no measured sensitivity are widened once nothing else profits; the KL never rises."""
    instance = [matrix("a", (32, 0.0), (64, 0.0), (96, 0.0)), matrix("b", (32, 2.0), (64, 1.0), (96, 1.5))]
    allocation = allocate(instance, Budget(max_bytes=170))
    assert allocation.bytes == 96 + 64 and allocation.kl == 1.0


def real_instance(count: int, seed: int, names: tuple[str, ...] = candidate_formats()) -> list[Sensitivity]:
    """Matrices of several shapes, one with an odd vocabulary, with errors as rounding leaves them."""
    generator = np.random.default_rng(seed)
    result = []
    for index in range(count):
        shape = (49_157, 576) if index == 0 else [(640, 2048), (1024, 640), (256, 640), (2048, 1024)][index % 4]
        scale = 10 ** generator.normal(-5, 1) * (30 if index == 0 else 1)
        candidates = [
            Candidate(
                f.name, GGUF.stored_bytes(f, shape), scale * 4.0**-f.bits_per_weight * generator.uniform(0.5, 1.5)
            )
            for f in carried_formats(names, shape[1])
        ]
        candidates.sort(key=lambda c: (c.bytes, c.kl))
        result.append(Sensitivity(f"m{index}", "q", index, tuple(candidates), shape))
    return result


@pytest.mark.parametrize("bpw", [4.6, 5.0, 5.77, 8.0, 11.0])
def test_four_hundred_matrices_are_soon_allocated(bpw: float) -> None:
    """In time, exactly (the search was not cut off), within 99 % of the budget, and the same again."""
    instance = real_instance(400, seed=3)
    weights = sum(rows * columns for rows, columns in (s.shape for s in instance))
    limit = 6_543_210 + int(bpw * weights / 8)
    start = time.perf_counter()
    allocation = allocate(instance, Budget(max_bytes=limit), 6_543_210)
    assert time.perf_counter() - start < 5
    assert 0.99 * limit <= allocation.bytes <= limit
    assert allocate(instance, Budget(max_bytes=limit), 6_543_210) == allocation
    hull = [point.kl for point in allocation.curve if point.bytes >= allocation.bytes]
    assert allocation.kl is not None and allocation.kl >= hull[0] * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_search_against_the_relaxation(seed: int) -> None:
    """No plan can be below the relaxed optimum, computed here from scratch as the maximum of the Lagrangian dual."""
    instance = real_instance(120, seed)
    smallest = sum(s.candidates[0].bytes for s in instance)
    limit = int(1.3 * smallest)
    slopes = np.geomspace(1e-16, 1e-6, 4000)
    least = [np.min([[c.kl + slope * c.bytes for slope in slopes] for c in s.candidates], axis=0) for s in instance]
    bound = float(np.max(np.sum(least, axis=0) - slopes * limit))
    kl = allocate(instance, Budget(max_bytes=limit)).kl
    assert kl is not None
    assert bound * (1 - 1e-9) <= kl <= bound * 1.01


def test_a_cut_off_search_still_fits_and_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = real_instance(60, seed=5)
    limit = Budget(max_bytes=int(1.4 * sum(s.candidates[0].bytes for s in instance)))
    exact = allocate(instance, limit)
    monkeypatch.setattr(knapsack, "MAX_STATES", 3)
    beam = allocate(instance, limit)
    assert limit.max_bytes is not None and beam.bytes <= limit.max_bytes
    assert exact.kl is not None and beam.kl is not None
    assert exact.kl <= beam.kl <= 1.05 * exact.kl


def test_bits_per_weight_leave_out_header_and_padding() -> None:
    """49,157 rows of 18 blocks are no multiple of 32 bytes, so that the file pads them."""
    instance = real_instance(20, seed=1)
    weights = sum(rows * columns for rows, columns in (s.shape for s in instance))

    def bits(allocation: Allocation) -> float:
        sizes = [format_of(allocation.formats[s.name]).bytes(*s.shape) for s in instance]
        return 8 * sum(sizes) / weights

    narrowest = allocate(instance, Budget(max_bpw=4.5), 1_000_000)
    assert bits(narrowest) == 4.5
    assert narrowest.bytes == 1_000_000 + sum(c.bytes for c in picks(instance, narrowest))
    assert narrowest.bytes > 1_000_000 + 4.5 * weights / 8
    assert 0.99 * 6.1 < bits(allocate(instance, Budget(max_bpw=6.1), 1_000_000)) <= 6.1
    with pytest.raises(InputError, match=r"4\.4 bits per weight are too few: these types take at least 4\.500"):
        allocate(instance, Budget(max_bpw=4.4))


def test_the_frontier_falls() -> None:
    instance = real_instance(200, seed=2)
    points = frontier(instance, 77)
    assert 20 <= len(points) <= 41
    assert points[0].bytes == 77 + sum(s.candidates[0].bytes for s in instance)
    assert points[-1].kl == pytest.approx(sum(min(c.kl for c in s.candidates) for s in instance), rel=1e-6)
    for before, after in itertools.pairwise(points):
        assert before.bytes < after.bytes and before.kl > after.kl


def test_candidates_by_name_only() -> None:
    instance = real_instance(30, seed=4)
    allocation = allocate(instance, Budget(max_bpw=7.0, formats=("q4_0", "q8_0")))
    assert set(allocation.formats.values()) == {"q4_0", "q8_0"}


def test_stand_ins_where_no_named_format_carries_a_matrix() -> None:
    names = ("q4_k", "q6_k")
    instance = real_instance(30, seed=4, names=names)
    allocation = allocate(instance, Budget(max_bpw=7.0, formats=names))
    taken = {s.name: format_of(allocation.formats[s.name]).name for s in instance}
    assert {taken[s.name] for s in instance if s.shape[1] % 256 == 0} <= {"q4_k", "q6_k"}
    assert {taken[s.name] for s in instance if s.shape[1] % 256} <= {"iq4_nl", "q8_0"}
    whole_table = real_instance(30, seed=4)
    assert set(allocate(whole_table, Budget(formats=names)).formats.values()) == {"q6_k", "q8_0"}


def test_widths() -> None:
    assert set(candidate_formats()) == set(NAMES) - {"bf16", "f32"}
    assert set(candidate_formats((4,))) == {"q4_0", "q4_1", "iq4_nl", "q4_k"}
    assert set(candidate_formats((5, 6))) == {"q5_0", "q5_1", "q5_k", "q6_k"}
    assert candidate_formats((8, 16)) == ("q8_0", "f16")
    assert candidate_formats(None, ("F32", "q4_0", "bf16", "q4_0")) == ("q4_0", "bf16", "f32")
    with pytest.raises(InputError, match="no type is 7 bits wide"):
        candidate_formats((4, 7))
    with pytest.raises(InputError, match="q9_0"):
        candidate_formats(None, ("q9_0",))
    with pytest.raises(InputError, match="exclude each other"):
        candidate_formats((4,), ("q4_0",))


def test_candidate_formats_that_onnx_carries() -> None:
    assert candidate_formats(container=ONNX) == ("q4_0", "q8_0", "f16")
    assert candidate_formats((4, 16), container=ONNX) == ("q4_0", "f16")
    assert candidate_formats(None, ("bf16", "q8_0"), ONNX) == ("q8_0", "bf16")
    with pytest.raises(InputError, match="ONNX carries no type of 5 bits: choose from q4_0, q8_0, f16, bf16, f32"):
        candidate_formats((4, 5), container=ONNX)
    with pytest.raises(InputError, match="ONNX cannot carry q4_k: choose from q4_0, q8_0, f16, bf16, f32"):
        candidate_formats(None, ("q8_0", "q4_k"), ONNX)


def test_budgets_of_onnx_count_its_bytes() -> None:
    """Q4_0 takes 5 bits there: in GGUF's 4.5 nothing fits, and what is a third Q8_0 takes 5 + 4 / 3."""
    tensors = [TensorSpec(name, name, (64, 96), "q", 0) for name in "abc"]
    with pytest.raises(InputError, match=r"at least 5\.000"):
        require_possible(tensors, Budget(max_bpw=4.9, container=ONNX))
    require_possible(tensors, Budget(max_bpw=5.0, container=ONNX))
    smallest = 3 * 64 * 96 * 5 // 8
    with pytest.raises(InputError, match=f"{100 + smallest:,} bytes"):
        require_possible(tensors, Budget(max_bytes=99 + smallest, container=ONNX), 100)
    require_possible(tensors, Budget(max_bytes=100 + smallest, container=ONNX), 100)
    assert uniform(tensors, "q8_0", 100, ONNX).bytes == 100 + 3 * 64 * 96 * 9 // 8
    kls = {"q4_0": 0.1, "q8_0": 0.001, "q4_k": 0.0, "f16": 0.0}
    table = priced(
        [
            Sensitivity(t.name, t.role, 0, tuple(Candidate(f, 1, kl) for f, kl in kls.items()), (64, 96))
            for t in tensors
        ],
        ONNX,
    )
    bits = Budget(max_bpw=5 + 4 / 3, container=ONNX)
    size = Budget(max_bytes=100 + 64 * 96 * (5 + 5 + 9) // 8, container=ONNX)
    for budget in (bits, size):
        found = allocate(table, budget, 100)
        assert sorted(found.formats.values()) == ["q4_0", "q4_0", "q8_0"] and found.bytes == size.max_bytes


@pytest.mark.parametrize(
    ("name", "columns", "taken"),
    [
        ("q4_k", 512, "q4_k"),
        ("q4_k", 640, "iq4_nl"),
        ("q5_k", 640, "q5_0"),
        ("q6_k", 640, "q8_0"),
        ("q8_0", 640, "q8_0"),
        ("q4_0", 650, "f16"),
        ("q4_k", 650, "f16"),
        ("f32", 650, "f32"),
        ("bf16", 7, "bf16"),
    ],
)
def test_fallback(name: str, columns: int, taken: str) -> None:
    assert fallback(name, columns).name == taken


def test_uniform() -> None:
    tensors = [
        TensorSpec("a", "a", (10, 512), "q", 0),
        TensorSpec("b", "b", (10, 640), "k", 0),
        TensorSpec("c", "c", (10, 33), "v", 0),
    ]
    allocation = uniform(tensors, "Q4_K", 100)
    assert allocation.formats == {"a": "q4_k", "b": "iq4_nl", "c": "f16"}
    assert allocation.bytes == 100 + 2880 + 3616 + 672  # of 2880, 3600 and 660, padded to multiples of 32
    assert allocation.note == "2 of 3 matrices take f16, iq4_nl: q4_k cannot carry their rows"
    assert allocation.kl is None
    plain = uniform(tensors[:2], "q4_0")
    assert set(plain.formats.values()) == {"q4_0"} and plain.note is None
