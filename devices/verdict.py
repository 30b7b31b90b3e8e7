"""How far a benchmark's figures can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.devices.result import Config, Machine, Memory, Moment, Quantiles, Sample, Summary, Verdict

FEW_REPS = 3
SPREAD = 0.10  # of the median, between the 10 % and 90 % quantiles
SHORT_S = 0.1  # of decoding in one repetition: below it, the clock and the scheduler show
BUSY = 0.5  # others' load per core
SLOWED = 0.9  # of a core's fastest clock in the run: below it, something held the core back
_PI_BITS = {0: "under-voltage", 1: "a capped clock", 2: "throttling", 3: "the soft temperature limit"}
_SINCE_BOOT = 16  # the same bits again, this many higher


def judge(
    samples: tuple[Sample, ...], summary: Summary, config: Config, memory: Memory, machine: Machine
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons: invalid where a figure is impossible, degraded where one is doubtful."""
    wrong = _impossible(samples, config)
    if wrong:
        return "invalid", tuple(wrong)
    doubts = _doubtful(samples, summary, config, memory, machine)
    return ("degraded" if doubts else "valid"), tuple(doubts)


def _impossible(samples: tuple[Sample, ...], config: Config) -> list[str]:
    reasons = []
    if len(samples) < config.reps:
        reasons.append(f"{len(samples)} of {config.reps} repetitions finished")
    for number, sample in enumerate(samples, 1):
        figures = (sample.load_s, sample.ttft_s, sample.prefill_tps, sample.decode_tps, *sample.inter_token_s)
        if not all(math.isfinite(figure) and figure > 0 for figure in figures):
            reasons.append(f"repetition {number} has a duration of zero or a figure that is not a number")
        if len(sample.inter_token_s) + 1 != config.gen_tokens:
            reasons.append(
                f"repetition {number} generated {len(sample.inter_token_s) + 1} of {config.gen_tokens} tokens"
            )
    return reasons


def _doubtful(
    samples: tuple[Sample, ...], summary: Summary, config: Config, memory: Memory, machine: Machine
) -> list[str]:
    reasons = []
    if config.reps < FEW_REPS:
        reasons.append(f"only {config.reps} repetitions: {FEW_REPS} or more tell the spread")
    reasons += noise_doubts(samples, summary, machine)
    if len({sample.output_sha256 for sample in samples}) > 1:
        reasons.append("the repetitions generated different tokens")
    if config.threads > machine.cores:
        reasons.append(f"{config.threads} threads on {machine.cores} cores")
    if memory.peak_bytes is None:
        reasons.append(f"memory was not measured: {memory.reason}")
    return reasons


def noise_doubts(samples: Sequence[Sample], summary: Summary, machine: Machine) -> list[str]:
    """What says that other programs, or the device's own clock, moved the figures, or could have."""
    reasons = []
    for name, quantiles in (("prefill", summary.prefill_tps), ("decode", summary.decode_tps)):
        if spread(quantiles) > SPREAD:
            reasons.append(f"{name} varies by {spread(quantiles):.0%} of its median between repetitions")
    if machine.load_average is not None and machine.load_average > BUSY * machine.cores:
        reasons.append(f"the machine was busy: a load of {machine.load_average:.1f} before the run")
    if min(sum(sample.inter_token_s) for sample in samples) < SHORT_S:
        reasons.append(f"decoding took less than {SHORT_S} s: generate more tokens")
    return reasons


def device_doubts(
    samples: Sequence[Sample], timeline: Sequence[Moment], cpus: Sequence[int], max_c: float | None
) -> list[str]:
    """What the timeline of a run on a device shows against its figures.

    `cpus` are the cores that were used; their clocks count while samples were taken, since an idle core's is low.
    max_c: what the device was to cool down to.
    """
    reasons = []
    during = [moment for moment in timeline if any(_taken(sample, moment.at_s) for sample in samples)]
    for cpu in cpus:
        clocks = [m.freq_hz[cpu] for m in during if m.freq_hz is not None and cpu < len(m.freq_hz)]
        known = [clock for clock in clocks if clock is not None]
        if known and min(known) < SLOWED * max(known):
            reasons.append(
                f"core {cpu}'s clock varied between {min(known) / 1e9:.2f} and {max(known) / 1e9:.2f} GHz in the run"
            )
    first = next((m.temp_c for m in timeline if m.temp_c), None)
    if max_c is not None and first is not None and max(first.values()) > max_c:
        reasons.append(f"it began at {max(first.values()):.0f} degrees, above {max_c:g}")
    return reasons + _held_back([m.throttling for m in timeline if m.throttling is not None])


def _taken(sample: Sample, at_s: float) -> bool:
    """Whether it was being taken then."""
    if sample.at_s is None:
        return False
    return sample.at_s <= at_s <= sample.at_s + sample.load_s + sample.ttft_s + sum(sample.inter_token_s)


def _held_back(seen: Sequence[dict[str, int]]) -> list[str]:
    """Signs of throttling in the raw counters: see `pi_throttling` for the Raspberry Pi's bits."""
    reasons = []
    for name in sorted(set().union(*seen)):
        values = [each[name] for each in seen if name in each]
        if name == "get_throttled":
            reasons += pi_throttling(values)
        elif name.endswith("throttle_count"):  # counts since boot
            if values[-1] > values[0]:
                reasons.append(f"{name} grew by {values[-1] - values[0]}")
        elif max(values) > 0:
            reasons.append(f"the cooling device {name} was at work")
    return reasons


def pi_throttling(values: Sequence[int]) -> list[str]:
    """A Raspberry Pi's `get_throttled`: bits 0 to 3 say what is so now, 16 to 19 what was since boot."""
    now = new = 0
    for value in values:
        now |= value & 0xF
        new |= (value & ~values[0]) >> _SINCE_BOOT
    bits = [text for bit, text in _PI_BITS.items() if (now | new) >> bit & 1]
    return [f"the board reported {', '.join(bits)}"] if bits else []


def spread(quantiles: Quantiles) -> float:
    """From the 10 % to the 90 % quantile, as a share of the median."""
    return (quantiles.p90 - quantiles.p10) / quantiles.median
