"""What a benchmark found: a versioned schema, with a verdict beside every number.

result.schema.json beside this file says the same of the JSON, field by field.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgekit.devices.interval import FEWEST, resampled_medians, tail

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA_VERSION = 4

Verdict = Literal["valid", "degraded", "invalid"]
Bound = Literal["memory", "compute"]


@dataclass(frozen=True)
class Sample:
    """One repetition: seconds and tokens per second; inter_token_s has gen_tokens - 1 entries."""

    load_s: float  # opening the file until model and tokenizer are ready, the file in the system's cache
    ttft_s: float  # from the prompt's tokens to the first generated one
    prefill_tps: float
    decode_tps: float
    inter_token_s: tuple[float, ...]
    output_sha256: str  # of the generated ids as little-endian int32
    load_cold_s: float | None = None  # the first opening, after the system was asked to drop the file from its cache
    at_s: float | None = None  # when it began, on the timeline's clock


@dataclass(frozen=True)
class Quantiles:
    """Over the repetitions, with linear interpolation.

    mad: the median absolute deviation from the median, as it is. n: repetitions. ci95: a bootstrap interval of the
    median; None of fewer than five, whose whole span misses the median more often than 1 time in 10.
    """

    median: float
    p10: float
    p90: float
    mad: float
    n: int
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Summary:
    """What the samples come to."""

    load_s: Quantiles
    ttft_s: Quantiles
    prefill_tps: Quantiles
    decode_tps: Quantiles


@dataclass(frozen=True)
class Memory:
    """The largest resident set of a process of its own that loads the model and runs once, mapped file pages included.

    baseline_bytes is that process's before loading (Python and its packages). None where the system does not tell, with
    the reason.
    """

    peak_bytes: int | None
    baseline_bytes: int | None
    reason: str | None = None
    pss_bytes: int | None = None  # at the end, shared pages divided between those who share them


@dataclass(frozen=True)
class Machine:
    """Where it ran."""

    cpu: str | None
    isa: tuple[str, ...]
    cores: int  # that the process may run on
    ram_bytes: int
    page_bytes: int
    os: str
    kernel: str
    load_average: float | None  # over the last minute, before the run


@dataclass(frozen=True)
class Build:
    """What ran."""

    edgekit: str
    python: str | None  # None on a device, where a C program runs alone; the last five are that program's
    runtime: str
    runtime_version: str
    git: str | None = None
    compiler: str | None = None
    flags: str | None = None
    isa_built: tuple[str, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True)
class ModelFile:
    """What was run: `types` counts the tensors' bytes by ggml type."""

    path: str
    sha256: str
    bytes: int
    types: dict[str, int]


@dataclass(frozen=True)
class Config:
    """How it was run."""

    prompt_tokens: int
    gen_tokens: int
    reps: int
    threads: int
    cache_type: str | None = None  # of keys and values, as `CacheTypes` spells it; None: the runtime's own
    affinity: tuple[int, ...] | None = None  # the cores that the system says it ran on; None: not asked


@dataclass(frozen=True)
class Core:
    """One core of a device. None where the device does not tell."""

    cpu: int
    max_hz: float | None
    capacity: float | None  # the kernel's, relative to the largest
    big: bool


@dataclass(frozen=True)
class DeviceRun:
    """How a device was reached from the desk, and what it is. `emulated_why` says how that was seen."""

    target: str
    transport: str
    model: str | None
    machine: str  # "aarch64", "x86_64"
    cores: tuple[Core, ...]
    tags: tuple[str, ...] = ()
    emulated_why: str | None = None


@dataclass(frozen=True)
class Moment:
    """What was seen of the device at `at_s`, once a second; None where it does not tell."""

    at_s: float
    freq_hz: tuple[float | None, ...] | None  # by core
    temp_c: dict[str, float] | None  # by thermal zone
    load: float | None  # the system's average over the last minute
    throttling: dict[str, int] | None = None  # what holds processors back, raw, by its name


@dataclass(frozen=True)
class Reads:
    """The bytes that each decoded token reads, on average: weights by ggml type, and the attention cache.

    Of an embedding that is only looked up it is one row.
    """

    weights: dict[str, int]
    cache: int


@dataclass(frozen=True)
class Predicted:
    """What the device's profile led to expect of decoding, an estimate, to be read beside the measured figure.

    A token takes memory_s for reading and compute_s for arithmetic; None: the profile does not tell.
    """

    decode_tps: float
    bound_by: Bound
    memory_s: float
    compute_s: float | None
    explanation: str


@dataclass(frozen=True)
class BenchResult:
    """A benchmark's result; `status` and `reasons` say how far its figures can be trusted."""

    run_id: str
    status: Verdict
    reasons: tuple[str, ...]
    machine: Machine
    build: Build
    model: ModelFile
    config: Config
    samples: tuple[Sample, ...]
    memory: Memory
    summary: Summary
    emulated: bool = False  # then its times say nothing of a real device
    device: DeviceRun | None = None  # None: it ran in this process, on this machine
    timeline: tuple[Moment, ...] = ()
    suspended_s: float | None = None  # that the device slept in mid-run
    unavailable: dict[str, str] = field(default_factory=dict)  # why what is None could not be had
    reads: Reads | None = None  # None: not a GGUF file
    predicted: Predicted | None = None
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))  # when it ended
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """One JSON document, as result.schema.json has it."""
        return json_text(self)


def summarise(samples: Sequence[Sample]) -> Summary:
    """The quantiles of each figure over the samples (at least one)."""
    return Summary(
        load_s=quantiles([sample.load_s for sample in samples]),
        ttft_s=quantiles([sample.ttft_s for sample in samples]),
        prefill_tps=quantiles([sample.prefill_tps for sample in samples]),
        decode_tps=quantiles([sample.decode_tps for sample in samples]),
    )


def quantiles(values: Sequence[float]) -> Quantiles:
    """Of at least one figure."""
    with np.errstate(invalid="ignore"):  # figures that are not finite have a verdict of their own
        p10, median, p90 = (float(value) for value in np.quantile(values, [0.1, 0.5, 0.9]))
        mad = float(np.median(np.abs(np.asarray(values) - median)))
        return Quantiles(median, p10, p90, mad, len(values), median_interval(values))


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % bootstrap interval of the median; None below FEWEST values.

    Of five or six it goes from the least to the greatest: so few allow no more.
    """
    if len(values) < FEWEST:
        return None
    cut = tail(len(values))
    low, high = np.quantile(resampled_medians(np.asarray(values, np.float64)), [cut, 1 - cut])
    return float(low), float(high)


def json_text(result: DataclassInstance) -> str:
    """A result, or a comparison of two; a figure that is not finite becomes null."""
    return json.dumps(_finite(asdict(result)), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
