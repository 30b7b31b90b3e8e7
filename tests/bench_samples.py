"""Benchmark results and comparisons made up for tests: every field said, and each figure known."""

from __future__ import annotations

from dataclasses import replace

from edgekit.devices.comparison import Comparison, Ratio, Ratios
from edgekit.devices.result import (
    BenchResult,
    Build,
    Config,
    Core,
    DeviceRun,
    Machine,
    Memory,
    ModelFile,
    Moment,
    Predicted,
    Reads,
    Sample,
    summarise,
)

REPS, GEN = 5, 16


def samples(reps: int = REPS, gen: int = GEN, token_s: float = 0.05) -> tuple[Sample, ...]:
    """Later repetitions are a little slower, later tokens too."""
    made = []
    for rep in range(reps):
        steps = tuple(token_s * (1 + 0.01 * rep + 0.002 * token) for token in range(gen - 1))
        rate = (gen - 1) / sum(steps)
        cold = 0.9 if rep == 0 else None
        made.append(Sample(0.1 + 0.01 * rep, 0.5, 128 / 0.48, rate, steps, "ab" * 32, cold, 2.0 + 3 * rep))
    return tuple(made)


def plain_result(**changes: object) -> BenchResult:
    """As `edgekit bench` has it without a device."""
    taken = tuple(replace(sample, load_cold_s=None, at_s=None) for sample in samples())
    return replace(
        BenchResult(
            run_id="a1b2c3",
            status="valid",
            reasons=(),
            machine=Machine("A processor", ("x86_64", "avx2"), 2, 8_000_000_000, 4096, "Linux", "6.1", 0.2),
            build=Build("0.1.0", "3.11", "native", "0.1.0"),
            model=ModelFile("model.gguf", "cd" * 32, 7_947_008, {"Q8_0": 7_798_784, "F32": 17_408}),
            config=Config(128, GEN, REPS, 2),
            samples=taken,
            memory=Memory(70_000_000, 30_000_000),
            summary=summarise(taken),
            unavailable={"timeline": "clocks and temperatures are watched with --device alone"},
            date="2026-01-02T03:04:05+00:00",
        ),
        **changes,
    )


def device_result(**changes: object) -> BenchResult:
    """As a device gives it: no field is at its default."""
    taken = samples()
    result = replace(
        plain_result(),
        status="degraded",
        reasons=("core 0's clock varied between 1.00 and 2.00 GHz in the run",),
        build=Build("0.1.0", "3.12", "native", "0.1.0", "abc123", "gcc 13", "-O3", ("dotprod",), "ef" * 32),
        config=Config(128, GEN, REPS, 2, "q8_0,q4_0", (2, 3)),
        samples=taken,
        memory=Memory(70_000_000, 30_000_000, "measured twice", 60_000_000),
        summary=summarise(taken),
        emulated=True,
        device=DeviceRun(
            target="board",
            transport="ssh",
            model="A board",
            machine="aarch64",
            cores=(Core(0, 1.5e9, 512.0, False), Core(2, 2.0e9, 1024.0, True), Core(3, 2.0e9, 1024.0, True)),
            tags=("shelf 3",),
            emulated_why="DMI says QEMU",
        ),
        timeline=tuple(
            Moment(
                float(at), (1.5e9, 2.0e9 - 5e7 * at, None), {"cpu": 40.0 + at, "gpu": 38.0}, 0.5 + 0.1 * at, {"fan": 1}
            )
            for at in range(18)
        ),
        suspended_s=0.25,
        unavailable={"pss_bytes": "a made-up reason"},
        reads=Reads({"Q8_0": 7_798_784, "F32": 17_408}, 589_824),
        predicted=Predicted(22.0, "compute", 0.02, 0.025, "8.4 MB are read for each token (a prediction)"),
    )
    return replace(result, **changes)


def comparison(ratio: float = 0.9, gate: float | None = 0.05, outcome: str | None = "regression") -> Comparison:
    """B decodes at `ratio` of A's rate."""
    a = device_result(emulated=False)
    taken = samples(token_s=0.05 / ratio)
    b = replace(a, model=replace(a.model, path="other.gguf"), samples=taken, summary=summarise(taken), run_id="d4e5f6")
    same = Ratio(1.0, 0.99, 1.01, REPS)
    ratios = Ratios(same, same, same, Ratio(ratio, ratio - 0.01, ratio + 0.01, REPS))
    return Comparison("0a0b0c", "valid", (), True, a, b, ratios, gate, outcome, ("model",))
