"""How far a benchmark's figures can be trusted."""

from __future__ import annotations

import math

from edgekit.devices.result import Config, Machine, Memory, Quantiles, Sample, Summary, Verdict

FEW_REPS = 3
SPREAD = 0.10  # of the median, between the 10 % and 90 % quantiles
SHORT_S = 0.1  # of decoding in one repetition: below it, the clock and the scheduler show
BUSY = 0.5  # others' load per core


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
    for name, quantiles in (("prefill", summary.prefill_tps), ("decode", summary.decode_tps)):
        if spread(quantiles) > SPREAD:
            reasons.append(f"{name} varies by {spread(quantiles):.0%} of its median between repetitions")
    if min(sum(sample.inter_token_s) for sample in samples) < SHORT_S:
        reasons.append(f"decoding took less than {SHORT_S} s: generate more tokens")
    if len({sample.output_sha256 for sample in samples}) > 1:
        reasons.append("the repetitions generated different tokens")
    if config.threads > machine.cores:
        reasons.append(f"{config.threads} threads on {machine.cores} cores")
    if machine.load_average is not None and machine.load_average > BUSY * machine.cores:
        reasons.append(f"the machine was busy: a load of {machine.load_average:.1f} before the run")
    if memory.peak_bytes is None:
        reasons.append(f"memory was not measured: {memory.reason}")
    return reasons


def spread(quantiles: Quantiles) -> float:
    """From the 10 % to the 90 % quantile, as a share of the median."""
    return (quantiles.p90 - quantiles.p10) / quantiles.median
