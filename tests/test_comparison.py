"""One benchmark against another: the intervals, how often the gate is right, and both ways to two results."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from bench_samples import device_result, plain_result, samples
from device_lab import demand_runner, install_fake_runner, left_behind, write_profile
from numpy.typing import NDArray
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices import bench as bench_module
from edgekit.devices import interval
from edgekit.devices.bench_vs import FEWEST_PAIRS, MOST_PAIRS, bench_vs, pairs_for
from edgekit.devices.comparison import (
    Comparison,
    Ratio,
    compare_in_turns,
    compare_stored,
    gate_outcome,
    paired_ratio,
    unpaired_ratio,
)
from edgekit.devices.result import BenchResult, Sample, Summary, quantiles, summarise
from edgekit.devices.target import Target
from edgekit.models.errors import InputError, InvalidResultError

# The intervals


def exact_interval(values: list[float]) -> tuple[float, float]:
    """Of an odd number of values: a resampled median is at most the k-th when most of n draws are among the first k."""
    n = len(values)

    def at_most(k: int) -> float:
        return sum(math.comb(n, m) * (k / n) ** m * (1 - k / n) ** (n - m) for m in range((n + 1) // 2, n + 1))

    tail = interval.tail(n)
    ordered = sorted(values)
    low = next(value for k, value in enumerate(ordered, 1) if at_most(k) > tail)
    high = next(value for k, value in enumerate(ordered, 1) if at_most(k) > 1 - tail)
    return low, high


@pytest.mark.parametrize("n", [5, 7, 11, 15, 21, 41])
def test_an_interval_is_the_exact_one(n: int) -> None:
    ratios = [float(value) for value in np.random.default_rng(n).lognormal(0, 0.1, n)]
    found = paired_ratio([2.0] * n, [2 * ratio for ratio in ratios])
    assert found.median == pytest.approx(sorted(ratios)[n // 2]) and found.n == n
    assert (found.low, found.high) == pytest.approx(exact_interval(ratios), rel=1e-9)


def test_the_tail_by_students_quantiles() -> None:
    for n, student in {5: 2.776, 10: 2.262, 21: 2.086, 1001: 1.962}.items():
        found = -NormalDist().inv_cdf(interval.tail(n)) / math.sqrt(n / (n - 1))
        assert found == pytest.approx(student, rel=0.02)


def test_unpaired_by_a_slow_bootstrap() -> None:
    """Draw by draw, with another generator: medians of 9 and 12 figures, each resampled for itself."""
    import random

    rng = np.random.default_rng(3)
    a, b = rng.lognormal(0, 0.1, 9).tolist(), rng.lognormal(0.2, 0.1, 12).tolist()
    dice = random.Random(5)

    def median(values: list[float]) -> float:
        ordered = sorted(values)
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2

    logs = [[math.log(value) for value in values] for values in (a, b)]
    drawn = sorted(median(dice.choices(logs[1], k=12)) - median(dice.choices(logs[0], k=9)) for _ in range(20_000))
    found, tail = unpaired_ratio(a, b), interval.tail(9)
    assert found.median == pytest.approx(math.exp(median(logs[1]) - median(logs[0]))) and found.n == 9
    assert found.low == pytest.approx(math.exp(drawn[int(tail * 20_000)]), rel=0.02)
    assert found.high == pytest.approx(math.exp(drawn[int((1 - tail) * 20_000)]), rel=0.02)


@pytest.mark.parametrize("ratio", [paired_ratio, unpaired_ratio])
def test_b_over_a_is_one_over_a_over_b(ratio: Callable[..., Ratio]) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.lognormal(0, 0.2, 12), rng.lognormal(0.1, 0.2, 12)
    one, other = ratio(a, b), ratio(b, a)
    assert one == ratio(a, b)  # at every call
    assert one.median == pytest.approx(1 / other.median)
    assert one.low == pytest.approx(1 / other.high, rel=0.02) and one.high == pytest.approx(1 / other.low, rel=0.02)


@pytest.mark.parametrize("ratio", [paired_ratio, unpaired_ratio])
def test_figures_that_say_nothing(ratio: Callable[..., Ratio]) -> None:
    few = ratio([1.0] * 4, [2.0] * 4)
    assert few.median == 2.0 and math.isnan(few.low) and math.isnan(few.high) and few.n == 4
    none = ratio([0.0, 1.0], [1.0, math.nan]) if ratio is paired_ratio else ratio([0.0, -1.0], [1.0])
    assert math.isnan(none.median) and none.n == 0
    same = ratio([3.0] * 6, [3.0] * 6)
    assert (same.median, same.low, same.high) == (1.0, 1.0, 1.0)
    uneven = unpaired_ratio([1.0] * 5, [2.0] * 3000)
    assert (uneven.low, uneven.n) == (2.0, 5)
    odd = ratio([1.0] * 7, [2.0, math.inf, 2.0, 2.0, 2.0, 2.0, 0.0])
    assert (odd.median, odd.n) == (2.0, 5)


# How often it is right, by simulation

Noise = Callable[[np.random.Generator, int], NDArray[np.float64]]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, n: rng.normal(0, 0.05, n),
    "heavy tails": lambda rng, n: 0.05 * rng.standard_t(2, n),
    "preempted": lambda rng, n: rng.normal(0, 0.02, n) - np.where(rng.random(n) < 0.3, rng.uniform(0.1, 0.6, n), 0),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval, "_MOST_RESAMPLES", 1000)


def in_turns(noise: Noise, trials: int, n: int, b: float = 1.0, drift: float = 0.0) -> list[Ratio]:
    """Rates of A and B, of which the machine loses `drift` from the first repetition to the last: A B B A."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(trials):
        order = [(pair, bench_module.turn(2, 2 * pair + place)) for pair in range(n) for place in (0, 1)]
        rates = np.exp(noise(rng, 2 * n) - drift * np.arange(2 * n) / (2 * n))
        sides: tuple[list[float], list[float]] = ([], [])
        for (_pair, side), rate in zip(order, rates, strict=True):
            sides[side].append(float(rate) * (b if side else 1.0))
        found.append(paired_ratio(*sides))
    return found


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("drift", [0.0, 0.7])
@pytest.mark.parametrize("n", [7, FEWEST_PAIRS])
def test_an_interval_covers_the_truth(noise: Noise, drift: float, n: int, quick: None) -> None:
    found = in_turns(noise, 300, n, b=0.8, drift=drift)
    assert 0.92 <= np.mean([ratio.low <= 0.8 <= ratio.high for ratio in found]) <= 1


def test_unpaired_intervals_cover_the_truth(quick: None) -> None:
    rng = np.random.default_rng(2)
    found = [unpaired_ratio(rng.lognormal(0, 0.1, 9), rng.lognormal(math.log(0.8), 0.1, 9)) for _ in range(300)]
    assert 0.92 <= np.mean([ratio.low <= 0.8 <= ratio.high for ratio in found]) <= 1


def test_pairs_do_not_see_a_drift_that_stored_results_would(quick: None) -> None:
    """A machine that gets slower by half: the pairs' interval stays narrow."""
    (paired,) = in_turns(NOISES["normal"], 1, FEWEST_PAIRS, drift=0.7)
    assert paired.high - paired.low < 0.15 and paired.low < 1 < paired.high


@pytest.mark.parametrize("scale", [0.5, 1, 4])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_false_alarms_are_rare_however_noisy(noise: Noise, scale: float, quick: None) -> None:
    found = in_turns(lambda rng, n: scale * noise(rng, n), 300, FEWEST_PAIRS)
    assert np.mean([gate_outcome(ratio, 0.05) == "regression" for ratio in found]) <= 0.015


def test_on_a_machine_that_is_quiet_enough_the_gate_is_right(quick: None) -> None:
    """Repetitions that vary by 2 %: no doubt about equal models, and every tenth slower one is found."""
    noises: list[Noise] = [lambda rng, n: rng.normal(0, 0.02, n), lambda rng, n: 0.01 * rng.standard_t(2, n)]
    for noise in noises:
        same = [gate_outcome(ratio, 0.05) for ratio in in_turns(noise, 200, FEWEST_PAIRS)]
        slower = [gate_outcome(ratio, 0.05) for ratio in in_turns(noise, 200, FEWEST_PAIRS, b=0.9)]
        assert same.count("no regression") >= 190 and same.count("regression") == 0
        assert slower.count("regression") >= 195 and slower.count("no regression") == 0


# The gate


@pytest.mark.parametrize(
    ("median", "low", "high", "outcome"),
    [
        (1.0, 0.96, 1.04, "no regression"),
        (1.3, 1.1, 1.5, "no regression"),
        (0.97, 0.955, 0.985, "no regression"),  # slower for sure, and by less than was asked about
        (0.96, 0.94, 0.98, "inconclusive"),
        (1.0, 0.94, 1.06, "inconclusive"),
        (0.9, 0.85, 0.96, "regression"),
        (0.9, 0.85, 0.98, "inconclusive"),  # 1 is outside, by too little
        (0.9, 0.85, 1.01, "inconclusive"),
        (0.95, 0.94, 0.97, "regression"),
        (0.5, 0.3, 0.79, "regression"),  # a wide interval does not matter where all of it is bad
        (0.9, math.nan, math.nan, "inconclusive"),
        (math.nan, math.nan, math.nan, "inconclusive"),
    ],
)
def test_the_gate(median: float, low: float, high: float, outcome: str) -> None:
    assert gate_outcome(Ratio(median, low, high, 9), 0.05) == outcome


def slower(result: BenchResult, times: float = 1.0, prefill: float = 1.0, reps: int = 9) -> BenchResult:
    """The same measured again, with tokens that take so many times as long."""
    taken = tuple(
        replace(sample, prefill_tps=sample.prefill_tps / prefill) for sample in samples(reps, token_s=0.05 * times)
    )
    config = replace(result.config, reps=reps)
    return replace(result, samples=taken, summary=summarise(taken), config=config)


def test_either_figure_is_enough() -> None:
    a = slower(plain_result())
    for b, outcome in (
        (slower(a), "no regression"),
        (slower(a, times=1.2), "regression"),
        (slower(a, prefill=1.2), "regression"),
        (slower(a, times=0.8, prefill=1.2), "regression"),
        (slower(a, times=0.8), "no regression"),
    ):
        found = compare_in_turns(a, b, 0.05)
        assert (found.outcome, found.status, found.reasons, found.paired) == (outcome, "valid", (), True)
    assert compare_in_turns(a, slower(a, times=1.2)).outcome is None
    assert compare_in_turns(a, slower(a, times=1.2), 0.2).outcome == "no regression"  # 1 / 1.2 is 17 % slower


def test_decoding_counts_by_what_most_tokens_take() -> None:
    """A program that takes the processor away at every third token of B's changes nothing."""
    a = slower(plain_result())
    hit = tuple(
        replace(one, inter_token_s=tuple(s * (9 if i % 3 == 0 else 1) for i, s in enumerate(one.inter_token_s)))
        for one in a.samples
    )
    assert compare_in_turns(a, replace(a, samples=hit)).ratios.decode_tps.median == pytest.approx(1, abs=0.01)


def test_too_few_pairs_are_inconclusive() -> None:
    a = slower(plain_result(), reps=4)
    found = compare_in_turns(a, slower(a, times=2, reps=4), 0.05)
    assert (found.outcome, found.status) == ("inconclusive", "degraded")
    assert found.reasons == ("4 repetitions are too few for an interval: raise --reps to 5 or more",)


def test_a_wide_interval_is_inconclusive() -> None:
    a = slower(plain_result())
    rough = [replace(one, prefill_tps=one.prefill_tps * factor) for one, factor in zip(a.samples, ROUGH, strict=True)]
    found = compare_in_turns(a, replace(a, samples=tuple(rough)), 0.05)
    assert (found.outcome, found.status) == ("inconclusive", "degraded")
    assert ["raise --reps" in reason for reason in found.reasons] == [True]
    assert compare_in_turns(a, replace(a, samples=tuple(rough))).status == "valid"  # nobody asked


ROUGH = (1.3, 0.7, 1.0, 1.2, 0.8, 1.0, 1.4, 0.6, 1.0)


def test_reasons_of_both_sides() -> None:
    a = replace(plain_result(), status="degraded", reasons=("x", "same"))
    b = replace(plain_result(), status="degraded", reasons=("same", "y"))
    found = compare_in_turns(slower(a), slower(b))
    assert (found.status, found.reasons) == ("degraded", ("A and B: same", "A: x", "B: y"))


def test_with_a_gate_noise_is_left_to_the_intervals() -> None:
    summary = replace(summarise(samples()), decode_tps=quantiles([10.0, 20.0, 30.0, 40.0, 50.0]))
    noisy = replace(slower(plain_result()), summary=summary, status="degraded")
    (reason,) = bench_module.judge(noisy.samples, summary, noisy.config, noisy.memory, noisy.machine)[1]
    noisy = replace(noisy, reasons=(reason, "another"))
    assert "decode varies by" in reason and isinstance(summary, Summary)
    assert compare_in_turns(noisy, noisy).reasons == (f"A and B: {reason}", "A and B: another")
    assert compare_in_turns(noisy, noisy, 0.05).reasons == ("A and B: another",)
    assert compare_stored(noisy, noisy, 0.05).reasons == (f"A and B: {reason}", "A and B: another")


def test_an_invalid_side_is_never_a_regression() -> None:
    a = slower(plain_result())
    broken = replace(slower(a, times=2), status="invalid", reasons=("a figure that is not a number",))
    found = compare_in_turns(a, broken, 0.05)
    assert (found.status, found.outcome) == ("invalid", "inconclusive")


# Stored results


def test_what_differs() -> None:
    a = plain_result()
    for b, differs in (
        (plain_result(), ()),
        (replace(a, config=replace(a.config, reps=50)), ()),
        (replace(a, machine=replace(a.machine, kernel="6.6", load_average=None, ram_bytes=7_900_000_000)), ()),
        (replace(a, model=replace(a.model, sha256="0" * 64)), ("model",)),
        (replace(a, build=replace(a.build, runtime_version="0.2.0")), ("build",)),
        (replace(a, machine=replace(a.machine, cpu="Another")), ("device",)),
        (replace(a, machine=replace(a.machine, ram_bytes=4_000_000_000)), ("device",)),
        (replace(a, config=replace(a.config, threads=1), model=replace(a.model, sha256="1")), ("model", "config")),
    ):
        assert compare_stored(a, b, force=True).differs == differs


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"machine": {"cpu": "Another"}}, "processor A processor in A and Another in B"),
        ({"machine": {"cores": 8}}, "cores 2 in A and 8 in B"),
        ({"machine": {"page_bytes": 16384}}, "page size 4096 in A and 16384 in B"),
        ({"machine": {"isa": ("x86_64",)}}, "instruction sets x86_64,avx2 in A and x86_64 in B"),
        ({"machine": {"ram_bytes": 16_000_000_000}}, "memory 8.0 GB in A and 16.0 GB in B"),
        ({"config": {"threads": 1}}, "threads 2 in A and 1 in B"),
        ({"config": {"cache_type": "f16"}}, "cache_type q8_0,q4_0 in A and f16 in B"),
        ({"config": {"affinity": None}}, "affinity 2,3 in A and not set in B"),
        ({"device": {"model": "Another board"}}, "model A board in A and Another board in B"),
    ],
)
def test_unlike_results_are_refused(change: dict[str, dict[str, Any]], told: str) -> None:
    a = device_result(emulated=False)
    b = replace(a, **{part: replace(getattr(a, part), **fields) for part, fields in change.items()})
    with pytest.raises(InputError, match=r"a\.json and b\.json are unlike") as refused:
        compare_stored(a, b, names=("a.json", "b.json"))
    assert told in str(refused.value) and "--force" in str(refused.value)
    forced = compare_stored(a, b, force=True)
    assert forced.status == "degraded" and told in forced.reasons


def test_what_one_result_does_not_tell_is_not_held_against_it() -> None:
    a = replace(device_result(emulated=False), status="valid", reasons=())
    assert compare_stored(a, replace(a, device=None), force=False).differs == ()


def test_emulation_and_invalid_results() -> None:
    a = device_result(emulated=False)
    with pytest.raises(InputError, match="emulated False in A and True in B"):
        compare_stored(a, replace(a, emulated=True))
    assert compare_stored(a, replace(a, emulated=True), force=True).status == "degraded"
    with pytest.raises(InvalidResultError, match=r"b\.json is emulated, .* drop --gate"):
        compare_stored(a, replace(a, emulated=True), 0.05, force=True, names=("a.json", "b.json"))
    with pytest.raises(InvalidResultError, match=r"A is an invalid result \(x\)"):
        compare_stored(replace(a, status="invalid", reasons=("x",)), a, force=True)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    def store(name: str, result: BenchResult) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(result.to_json())
        return path

    return store


def test_the_command_compare(stored: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    a = slower(plain_result())
    before, same = stored("before", a), stored("same", slower(a, times=1.01))
    worse = stored("worse", replace(slower(a, times=1.2), build=replace(a.build, runtime_version="0.2.0")))
    files = [str(tmp_path / f"out.{kind}") for kind in ("json", "html", "csv")]
    assert main(["compare", str(before), str(same), "--gate", "10%"]) == 0
    assert "no regression, at 10% slower" in capsys.readouterr().out
    line = ["compare", str(before), str(worse), "--gate", "0.05"]
    assert main([*line, *(word for file in files for word in ("-o", file))]) == 4
    out = capsys.readouterr().out
    assert "differ in" in out and "build" in out and "regression" in out and "0.833" in out and "15.8" in out
    assert main([*line, "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(Path(files[0]).read_text()) | {"run_id": found["run_id"]}
    assert found["ratios"]["decode_tps"]["median"] == pytest.approx(1 / 1.2) and found["paired"] is False
    assert found["differs"] == ["build"] and found["gate"] == 0.05 and found["outcome"] == "regression"
    assert Path(files[1]).read_text().startswith("<!") and len(Path(files[2]).read_text().splitlines()) == 19
    assert main(["compare", str(before), str(worse)]) == 0  # nothing was asked of B


def test_the_command_compare_refuses(stored: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    a = slower(plain_result())
    before, other = stored("before", a), stored("other", replace(a, config=replace(a.config, threads=1)))
    emulated = stored("emulated", replace(a, emulated=True))
    invalid = stored("invalid", replace(a, status="invalid", reasons=("x",)))
    for line, code, told in (
        ([before, other], 2, "other.json are unlike, threads 2 in A and 1 in B"),
        ([emulated, emulated, "--gate", "5%"], 5, "emulated.json is emulated"),
        ([before, invalid], 5, "invalid.json is an invalid result"),
        ([before, other.with_name("none.json")], 2, "none.json is not a file"),
        ([before, before, "-o", before], 2, "is an input"),
        ([before, before, "-o", "out.txt"], 2, "does not end in .json, .html, .csv"),
    ):
        assert main(["compare", *map(str, line)]) == code
        out, err = capsys.readouterr()
        assert out == "" and told in err and len(err.splitlines()) == 1
    assert main(["compare", str(before), str(other), "--force"]) == 3
    assert main(["compare", str(emulated), str(emulated)]) == 0


# Two models in turns


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("models") / "a.gguf")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("models") / "b.gguf", "q4_0")


def test_turns() -> None:
    assert [bench_module.turn(2, number) for number in range(8)] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert [bench_module.turn(1, number) for number in range(3)] == [0, 0, 0]


def test_in_this_process(model: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    measure = bench_module.measure

    def spied(path: Path, *rest: Any) -> Sample:
        measured.append(path)
        return measure(path, *rest)

    monkeypatch.setattr(bench_module, "measure", spied)
    found = bench_vs(model, other, reps=3, prompt_tokens=8, gen_tokens=4, threads=1)
    assert isinstance(found, Comparison) and found.paired and found.outcome is None
    assert measured == [model, other, model, other, other, model, model, other]  # the first two warm up
    assert (found.a.model.path, found.b.model.path) == (str(model), str(other))
    assert len(found.a.samples) == len(found.b.samples) == 3 and "model" in found.differs
    assert len({one.output_sha256 for one in found.a.samples}) == 1


def test_settings_have_to_be_the_same(model: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = iter(["native", "llama.cpp"])
    monkeypatch.setattr(bench_module, "choose_runtime", lambda runtime, path: next(chosen))
    monkeypatch.setattr(bench_module, "thread_count", lambda runtime, threads: len(runtime))
    with pytest.raises(InputError, match="give --threads"):
        bench_vs(model, other)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_fake_runner(tmp_path / "runners", monkeypatch)
    return tmp_path / "device"


def vs(model: Path, other: Path, workdir: Path, faults: str, *more: str) -> int:
    file = write_profile(workdir.parent / "board.toml", "local", workdir, faults)
    line = ["bench", str(model), "--vs", str(other), "--device", str(file), "--gen-tokens", "8"]
    return main([*line, *more])


@pytest.mark.parametrize(
    ("faults", "more", "code", "outcome"),
    [
        ("", [], 0, None),
        ("", ["--gate", "5%"], 0, "no regression"),
        ("slower=1.2", [], 0, None),
        ("slower=1.2", ["--gate", "5%"], 4, "regression"),
        ("slower=1.2", ["--gate", "0.3"], 0, "no regression"),
        ("slower=1.2", ["--gate", "5%", "--reps", "4"], 3, "inconclusive"),
        ("slower=1.2,throttle", ["--gate", "5%"], 4, "regression"),
        ("throttle", ["--gate", "5%"], 3, "no regression"),
        ("null", ["--gate", "5%"], 5, "inconclusive"),
        ("emulated", [], 3, None),
    ],
)
def test_exit_codes_on_a_device(
    model: Path,
    other: Path,
    workdir: Path,
    faults: str,
    more: list[str],
    code: int,
    outcome: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert vs(model, other, workdir, faults, "--json", *more) == code
    found = json.loads(capsys.readouterr().out)
    assert found["outcome"] == outcome and found["paired"] and found["differs"] == ["model"]
    assert found["a"]["model"]["path"] == str(model) and found["b"]["model"]["bytes"] == other.stat().st_size
    assert found["a"]["timeline"] == found["b"]["timeline"] != []
    reps = int(more[-1]) if "--reps" in more else MOST_PAIRS  # as the model is small
    assert len(found["a"]["samples"]) == len(found["b"]["samples"]) == reps
    starts = sorted(
        [(one["at_s"], "a") for one in found["a"]["samples"]] + [(one["at_s"], "b") for one in found["b"]["samples"]]
    )
    assert "".join(side for _at, side in starts).startswith("abbaabba")
    assert left_behind(workdir) == []


def test_small_files_get_more_pairs() -> None:
    assert pairs_for(250_000_000, 64) == pairs_for(62_000_000, 96) == FEWEST_PAIRS
    assert FEWEST_PAIRS < pairs_for(30_000_000, 64) < MOST_PAIRS == pairs_for(5_000_000, 64)
    assert pairs_for(5_000_000, 2000) == FEWEST_PAIRS  # long ones tell as much
    assert pairs_for(0, 2) == MOST_PAIRS


def test_help_tells_the_repetitions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert f"with --vs: {FEWEST_PAIRS} of each, of small files up to {MOST_PAIRS}" in capsys.readouterr().out


def test_a_table_for_two(model: Path, other: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vs(model, other, workdir, "slower=1.25", "--gate", "5%") == 4
    out = capsys.readouterr().out
    assert f"of {MOST_PAIRS} pairs" in out and "regression, at 5% slower" in out and "20.0" in out and "16.0" in out
    assert "0.800" in out and "0.800 to 0.800" in out


def test_an_emulated_device_is_refused_before_anything_is_put_there(
    model: Path, other: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.devices.transports import local

    pushed: list[str] = []
    push = local.Local.push

    def counted(self: local.Local, file: Path, remote: str, timeout_s: float) -> Any:
        pushed.append(file.name)
        return push(self, file, remote, timeout_s)

    monkeypatch.setattr(local.Local, "push", counted)
    assert vs(model, other, workdir, "emulated", "--gate", "5%") == 5
    out, err = capsys.readouterr()
    assert out == "" and "board is emulated" in err and "drop --gate" in err and len(err.splitlines()) == 1
    assert [name.startswith("edgekit-bench") for name in pushed] == [True] and left_behind(workdir) == []
    file = write_profile(workdir.parent / "board.toml", "local", workdir, more="emulated = true")
    assert main(["bench", str(model), "--vs", str(other), "--device", str(file), "--gate", "5%"]) == 5


@pytest.mark.parametrize(
    ("faults", "told"),
    [("forgets", "used 1 as models where 2 was asked for"), ("nospace", "free in"), ("killed", "memory runs out")],
)
def test_faults(
    model: Path, other: Path, workdir: Path, faults: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vs(model, other, workdir, faults) == 6
    assert told in capsys.readouterr().err and left_behind(workdir) == []


def test_room_for_both_is_asked_for_before_the_first_is_pushed(
    model: Path, other: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for either, and not for both."""
    from edgekit.devices import remote

    room = model.stat().st_size + (5 << 20)
    assert other.stat().st_size < room < model.stat().st_size + other.stat().st_size + (4 << 20) + 1
    read = remote.read_probe
    monkeypatch.setattr(remote, "read_probe", lambda *answer: replace(read(*answer), disk_free_bytes=room))
    assert vs(model, other, workdir, "") == 6
    assert "a.gguf and b.gguf take 12 MB" in capsys.readouterr().err and left_behind(workdir) == []
    assert vs(model, model, workdir, "") == 0  # one file


def test_vocabularies_have_to_agree(
    model: Path, other: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.runtimes.tokens import Tokens

    found = iter([0, 5])
    monkeypatch.setattr(Tokens, "bos", property(lambda self: next(found)))
    assert vs(model, other, workdir, "") == 2
    assert "different tokens" in capsys.readouterr().err and left_behind(workdir) == []


def test_the_real_runner_takes_turns_with_this_machines_kernels(model: Path, other: Path, tmp_path: Path) -> None:
    """And not with the scalar ones: its compiler has its own way to see what a processor can do."""
    from edgekit import _native
    from edgekit.devices import remote

    demand_runner()
    file = tmp_path / "board.toml"
    file.write_text(f'transport = "local"\nworkdir = "{tmp_path / "device"}"\n')
    target = Target.parse(str(file))
    kernels: list[str | None] = []
    check = remote._check_answer

    def spied(target: Target, answer: Any, *rest: Any) -> None:
        kernels.extend(each.isa for each in answer.models)
        check(target, answer, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_check_answer", spied)
        found = bench_vs(model, other, target=target, reps=2, prompt_tokens=8, gen_tokens=4, threads=1)
    assert kernels == [_native.Model(model).isa] * 2
    starts = [(one.at_s or 0.0, side) for side, of in (("a", found.a), ("b", found.b)) for one in of.samples]
    assert [side for _at, side in sorted(starts)] == ["a", "b", "b", "a"]
    assert all(first < second for (first, _), (second, _) in pairwise(sorted(starts)))
    assert left_behind(tmp_path / "device") == []


# How often it is right, measured: make bench-gate


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "side_by_side"))
    return importlib.import_module("gate")


def test_the_gate_is_measured(
    gate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With models so small that what comes out does not matter."""
    demand_runner()
    monkeypatch.setattr(gate, "LAYERS", {"A": 1, "B": 2})
    monkeypatch.setattr(gate, "SIZES", {"tied": True})
    monkeypatch.setattr(gate, "WORKLOAD", ("--prompt-tokens", "16", "--gen-tokens", "4"))
    written = tmp_path / "out.json"
    line = ["gate.py", "--rounds", "1", "--reps", "6", "--work", str(tmp_path / "work"), "--json", str(written)]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as left:
        gate.main()
    found = json.loads(written.read_text())
    assert [sum(counts.values()) for counts in found["counts"].values()] == [1, 1]
    assert found["true_ratios"]["decode_tps"]["n"] == gate.TRUE_PAIRS
    assert found["comparisons"]["B"][0]["ratios"]["decode_tps"]["n"] == 6
    assert left.value.code == found["counts"]["A"]["regression"] + found["counts"]["B"]["no regression"]
    assert "true B / A, decode_tps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("with_a", "with_b", "code"),
    [
        ("no regression", "regression", 0),
        ("inconclusive", "inconclusive", 0),
        ("regression", "regression", 1),
        ("no regression", "no regression", 1),
    ],
)
def test_a_gate_that_is_wrong_fails(
    gate: Any, with_a: str, with_b: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio = {"median": 0.9, "low": 0.8, "high": 1.0, "n": 9}

    def compare(a: Path, b: Path, *options: str) -> dict[str, Any]:
        return {
            "outcome": with_a if a == b else with_b,
            "ratios": {"decode_tps": ratio, "prefill_tps": ratio},
        }

    monkeypatch.setattr(gate, "compare", compare)
    monkeypatch.setattr(gate, "write_models", lambda folder: {"A": Path("a"), "B": Path("b")})
    monkeypatch.setattr("sys.argv", ["gate.py", "--rounds", "2"])
    with pytest.raises(SystemExit) as left:
        gate.main()
    assert left.value.code == code
