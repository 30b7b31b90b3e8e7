"""Correct the error table by measurement: the quadratic KL is too large or too small by a factor per matrix class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from edgekit.models.errors import InputError
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Candidate, Sensitivity

ALL = "all"  # the class of probes that round every matrix at once: they show how errors add up
LEVELS = 2  # a probe of each class at the narrowest width and one at the next
LARGEST_FACTOR = 100.0  # what a class's factor may be at most, and one over it at least
LARGEST_JOINT_FACTOR = 2.0
STEEPEST = 0.9  # of a candidate's own fall in KL, what rescaling may take back: a better candidate stays better


@dataclass(frozen=True)
class Probe:
    """Matrices to be rounded together, whose KL is to be measured: those of one role, or all."""

    role: str  # a matrix role, or ALL
    level: int  # 0: every matrix at its narrowest width, 1: at the next
    formats: dict[str, str]
    predicted: float  # nats per token


@dataclass(frozen=True)
class Measurement:
    """A probe and the KL of the model with its matrices rounded, nats per token."""

    probe: Probe
    kl: float


def choose_probes(sensitivities: Sequence[Sensitivity]) -> tuple[Probe, ...]:
    """Two probes per role and two of the whole model, at most 20: at the narrowest width and at the next."""
    roles = list(dict.fromkeys(sensitivity.role for sensitivity in sensitivities))
    probes = []
    for role in [*roles, *([ALL] if len(roles) > 1 else [])]:
        members = [s for s in sensitivities if role in (s.role, ALL)]
        for level in range(min(len(_levels(member)) for member in members)):
            chosen = {member.name: _levels(member)[level] for member in members}
            formats = {name: candidate.format for name, candidate in chosen.items()}
            probes.append(Probe(role, level, formats, math.fsum(candidate.kl for candidate in chosen.values())))
    return tuple(probes)


def measure_probes(probes: Sequence[Probe], measure: Callable[[Mapping[str, str]], float]) -> tuple[Measurement, ...]:
    """Each probe measured: `measure` gives the KL of the model with those matrices rounded to those formats."""
    measurements = []
    for probe in tqdm(probes, desc="measured KL", unit="plan", disable=None):
        kl = measure(probe.formats)
        if not math.isfinite(kl):
            raise InputError(f"the model's KL with its {probe.role} matrices rounded is not a finite number")
        measurements.append(Measurement(probe, kl))
    return tuple(measurements)


def class_factors(measurements: Sequence[Measurement], noise: float) -> dict[str, tuple[float, ...]]:
    """Per role, measured over predicted KL at each level, such that the whole model's measured KL is met too.

    `noise` (nats per token) is what a measurement may be off by: it is added above and below the line, so that a factor
    tends to 1 where the KL is too small to be measured.
    """
    joint = {m.probe.level: m.kl for m in measurements if m.probe.role == ALL}
    single = [m for m in measurements if m.probe.role != ALL]
    factors: dict[str, tuple[float, ...]] = {}
    for measurement in sorted(single, key=lambda m: m.probe.level):
        probe = measurement.probe
        factor = _clip((max(measurement.kl, 0.0) + noise) / (probe.predicted + noise), LARGEST_FACTOR)
        if probe.level in joint:
            apart = math.fsum(max(m.kl, 0.0) for m in single if m.probe.level == probe.level)
            factor *= _clip((max(joint[probe.level], 0.0) + noise) / (apart + noise), LARGEST_JOINT_FACTOR)
        factors[probe.role] = (*factors.get(probe.role, ()), factor)
    return factors


def rescale(sensitivities: Sequence[Sensitivity], factors: Mapping[str, tuple[float, ...]]) -> list[Sensitivity]:
    """The table with every candidate's KL multiplied by its class's factor.

    Between a matrix's two probed candidates the factor is interpolated, log against log of predicted KL; beyond them
    it stays. A role without a factor stays as it is.
    """
    return [
        replace(s, candidates=tuple(_rescaled(c, _levels(s), factors[s.role]) for c in s.candidates))
        if s.role in factors
        else s
        for s in sensitivities
    ]


def calibrate(
    sensitivities: Sequence[Sensitivity], measure: Callable[[Mapping[str, str]], float], *, noise: float = 1e-5
) -> tuple[list[Sensitivity], tuple[Measurement, ...]]:
    """The table rescaled by about 20 measured KLs, and these; see `choose_probes` and `class_factors`."""
    measurements = measure_probes(choose_probes(sensitivities), measure)
    return rescale(sensitivities, class_factors(measurements, noise)), measurements


def _levels(sensitivity: Sensitivity) -> tuple[Candidate, ...]:
    """The smallest candidate of the narrowest width and of the next; 16 bits are not measurable."""
    narrowest: dict[int, Candidate] = {}
    for candidate in sorted(sensitivity.candidates, key=lambda candidate: (candidate.bytes, candidate.kl)):
        narrowest.setdefault(format_of(candidate.format).width, candidate)
    return tuple(narrowest[width] for width in sorted(narrowest) if width < 16)[:LEVELS]


def _rescaled(candidate: Candidate, levels: Sequence[Candidate], factors: tuple[float, ...]) -> Candidate:
    factor = _factor_at(candidate.kl, [level.kl for level in levels], factors)
    return replace(candidate, kl=candidate.kl * factor, kl_error=candidate.kl_error * factor)


def _factor_at(kl: float, levels: Sequence[float], factors: tuple[float, ...]) -> float:
    """The factor for a predicted KL, given those of the probed candidates (the larger KL first)."""
    if len(factors) < 2 or len(levels) < 2 or not levels[0] > levels[1] > 0:
        return factors[-1]
    span = math.log(levels[0] / levels[1])
    rise = max(math.log(factors[0] / factors[1]), -STEEPEST * span)
    share = min(max(math.log(max(kl, 1e-300) / levels[1]) / span, 0.0), 1.0)
    return factors[1] * math.exp(rise * share)


def _clip(factor: float, largest: float) -> float:
    return min(max(factor, 1 / largest), largest)
