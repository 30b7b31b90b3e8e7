"""What the runner answers, checked field by field: it comes from another machine, and anything odd in it is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgekit.devices.result import Core, Memory, Moment, Sample
from edgekit.models.errors import InfrastructureError

PROTOCOL = 1
MOST_BYTES = 8 << 20
_MOST_DEPTH = 8
_MOST_TEXT = 1024
_MOST_CORES = 1024
_MOST_ZONES = 256
_MOST_REPS = 10_000
_MOST_TOKENS = 1 << 20
_MOST_MOMENTS = 200_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NONCE = re.compile(r"[0-9a-f]{8,64}")

T = TypeVar("T")


@dataclass(frozen=True)
class Probe:
    """Facts of a device, as it tells them; None where it does not."""

    model: str | None
    cpu: str | None
    isa: tuple[str, ...]
    cores: tuple[Core, ...]
    online: int
    ram_bytes: int
    available_bytes: int | None
    page_bytes: int
    os: str
    kernel: str
    machine: str  # "aarch64", "x86_64"
    emulated: bool | None
    emulated_why: str | None
    disk_free_bytes: int | None  # where the runner lies


@dataclass(frozen=True)
class RunState:
    """How a run stands. `exit` and `signal` belong to one that ended, `nonce` to one whose result is whole."""

    state: str  # "running", "done", "failed" or "gone"
    progress: float | None
    exit: int | None
    signal: int | None
    nonce: str | None
    error: str | None = None


@dataclass(frozen=True)
class RunnerBuild:
    """How the runner was made."""

    edgekit: str
    git: str | None
    compiler: str | None
    flags: str | None
    isa_built: tuple[str, ...]


@dataclass(frozen=True)
class RunConfig:
    """As the runner used it; `affinity` is what the system says after it was set."""

    prompt_tokens: int
    gen_tokens: int
    reps: int
    threads: int
    cache: str | None
    affinity: tuple[int, ...] | None


@dataclass(frozen=True)
class RunModel:
    """A model as the runner held it; `decode_bytes` of weights are read for each token."""

    bytes: int
    architecture: str | None
    isa: str | None
    weight_bytes: int
    decode_bytes: int


@dataclass(frozen=True)
class RunAnswer:
    """A whole result: as many samples of each model as repetitions, memory of each model."""

    nonce: str
    device: Probe
    build: RunnerBuild
    config: RunConfig
    models: tuple[RunModel, ...]
    samples: tuple[tuple[Sample, ...], ...]  # by model
    memory: tuple[Memory, ...]  # by model
    timeline: tuple[Moment, ...]
    suspended_s: float | None
    reasons: dict[str, str] = field(default_factory=dict)  # for what is None


def read_probe(content: str, device: str) -> Probe:
    """`edgekit-bench probe`'s line; InfrastructureError where it is not what it should be."""
    return _probe(_protocol(_document(content.encode(), f"{device}: the probe")))


def read_state(content: str, device: str) -> RunState:
    """`edgekit-bench wait`'s line."""
    answer = _document(content.encode(), f"{device}: the state of the run")
    state = answer["state"].text()
    if state not in ("running", "done", "failed", "gone"):
        raise answer["state"].odd("is none that there is")
    return RunState(
        state=state,
        progress=answer.maybe("progress", lambda found: found.number(0, 1)),
        exit=answer.maybe("exit", lambda found: found.whole(0, 255)),
        signal=answer.maybe("signal", lambda found: found.whole(1, 64)),
        nonce=answer.maybe("nonce", lambda found: found.text(_NONCE)),
        error=answer.maybe("error", _Found.text),
    )


def read_result(content: bytes, device: str) -> RunAnswer:
    """`result.json` of a run."""
    answer = _protocol(_document(content, f"{device}: the result"))
    models = tuple(_model(found) for found in answer["models"].items(2))
    if not models:
        raise answer["models"].odd("is empty")
    by_model: list[list[Sample]] = [[] for _ in models]
    for found in answer["samples"].items(_MOST_REPS * len(models)):
        by_model[found["model"].whole(0, len(models) - 1)].append(_sample(found))
    memory = tuple(_memory(found) for found in answer["memory"].items(len(models)))
    if len(memory) != len(models):
        raise answer["memory"].odd(f"has {len(memory)} entries for {len(models)} models")
    return RunAnswer(
        nonce=answer["nonce"].text(_NONCE),
        device=_probe(answer["device"]),
        build=_build(answer["build"]),
        config=_config(answer["config"]),
        models=models,
        samples=tuple(tuple(samples) for samples in by_model),
        memory=memory,
        timeline=tuple(_moment(found) for found in answer["timeline"].items(_MOST_MOMENTS)),
        suspended_s=answer.maybe("suspended_s", lambda found: found.number(0, 1e7)),
        reasons={name: found.text() for name, found in answer["reasons"].entries(64)},
    )


def _protocol(answer: _Found) -> _Found:
    if answer["protocol"].whole(0, 1 << 30) != PROTOCOL:
        raise answer["protocol"].odd(f"is not {PROTOCOL}, as that of another version of edgekit")
    return answer


def _probe(answer: _Found) -> Probe:
    return Probe(
        model=answer.maybe("model", _Found.text),
        cpu=answer.maybe("cpu", _Found.text),
        isa=tuple(found.text() for found in answer["isa"].items(64)),
        cores=tuple(_core(found) for found in answer["cores"].items(_MOST_CORES)),
        online=answer["online"].whole(1, _MOST_CORES),
        ram_bytes=answer["ram_bytes"].whole(1 << 20, 1 << 50),
        available_bytes=answer.maybe("available_bytes", lambda found: found.whole(0, 1 << 50)),
        page_bytes=answer["page_bytes"].whole(1 << 9, 1 << 30),
        os=answer["os"].text(),
        kernel=answer["kernel"].text(),
        machine=answer["machine"].text(),
        emulated=answer.maybe("emulated", _Found.flag),
        emulated_why=answer.maybe("emulated_why", _Found.text),
        disk_free_bytes=answer.maybe("disk_free_bytes", lambda found: found.whole(0, 1 << 60)),
    )


def _core(answer: _Found) -> Core:
    return Core(
        cpu=answer["cpu"].whole(0, 4095),
        max_hz=answer.maybe("max_hz", lambda found: found.number(1e3, 1e12)),
        capacity=answer.maybe("capacity", lambda found: found.number(0, 1e9)),
        big=answer["big"].flag(),
    )


def _build(answer: _Found) -> RunnerBuild:
    return RunnerBuild(
        edgekit=answer["edgekit"].text(),
        git=answer.maybe("git", _Found.text),
        compiler=answer.maybe("compiler", _Found.text),
        flags=answer.maybe("flags", _Found.text),
        isa_built=answer.maybe("isa_built", _names) or (),
    )


def _names(answer: _Found) -> tuple[str, ...]:
    return tuple(found.text() for found in answer.items(64))


def _config(answer: _Found) -> RunConfig:
    return RunConfig(
        prompt_tokens=answer["prompt_tokens"].whole(1, _MOST_TOKENS),
        gen_tokens=answer["gen_tokens"].whole(1, _MOST_TOKENS),
        reps=answer["reps"].whole(1, _MOST_REPS),
        threads=answer["threads"].whole(1, _MOST_CORES),
        cache=answer.maybe("cache", _Found.text),
        affinity=answer.maybe("affinity", lambda found: tuple(cpu.whole(0, 4095) for cpu in found.items(_MOST_CORES))),
    )


def _model(answer: _Found) -> RunModel:
    return RunModel(
        bytes=answer["bytes"].whole(1, 1 << 50),
        architecture=answer.maybe("architecture", _Found.text),
        isa=answer.maybe("isa", _Found.text),
        weight_bytes=answer["weight_bytes"].whole(0, 1 << 50),
        decode_bytes=answer["decode_bytes"].whole(0, 1 << 50),
    )


def _sample(answer: _Found) -> Sample:
    return Sample(
        load_s=answer["load_s"].figure(),
        ttft_s=answer["ttft_s"].figure(),
        prefill_tps=answer["prefill_tps"].figure(),
        decode_tps=answer["decode_tps"].figure(),
        inter_token_s=tuple(found.figure() for found in answer["inter_token_s"].items(_MOST_TOKENS)),
        output_sha256=answer["output_sha256"].text(_SHA256),
        load_cold_s=answer.maybe("load_cold_s", lambda found: found.number(0, 1e7)),
        at_s=answer["at_s"].number(0, 1e7),
    )


def _memory(answer: _Found) -> Memory:
    def size(found: _Found) -> int:
        return found.whole(0, 1 << 50)

    return Memory(
        peak_bytes=answer.maybe("peak_bytes", size),
        baseline_bytes=answer.maybe("baseline_bytes", size),
        reason=answer.maybe("reason", _Found.text),
        pss_bytes=answer.maybe("pss_bytes", size),
    )


def _moment(answer: _Found) -> Moment:
    def clocks(found: _Found) -> tuple[float | None, ...]:
        return tuple(each.maybe_self(lambda one: one.number(0, 1e12)) for each in found.items(_MOST_CORES))

    def zones(found: _Found) -> dict[str, float]:
        return {name: zone.number(-273.15, 1000) for name, zone in found.entries(_MOST_ZONES)}

    def counts(found: _Found) -> dict[str, int]:
        return {name: count.whole(-(1 << 53), 1 << 53) for name, count in found.entries(_MOST_ZONES)}

    return Moment(
        at_s=answer["at_s"].number(0, 1e7),
        freq_hz=answer.maybe("freq_hz", clocks),
        temp_c=answer.maybe("temp_c", zones),
        throttling=answer.maybe("throttling", counts),
        load=answer.maybe("load", lambda found: found.number(0, 1e6)),
    )


@dataclass(frozen=True)
class _Found:
    """A value of the answer and the way to it, which names it in every message."""

    value: Any
    path: str

    def odd(self, what: str) -> InfrastructureError:
        return InfrastructureError(f"{self.path} {what}: the runner's answer cannot be used")

    def __getitem__(self, key: str) -> _Found:
        if not isinstance(self.value, dict):
            raise self.odd("is not an object")
        if key not in self.value:
            raise self.odd(f"has no {key}")
        return _Found(self.value[key], f"{self.path}.{key}")

    def maybe(self, key: str, read: Callable[[_Found], T]) -> T | None:
        """None where the runner says null; a missing field is an error, so that nothing is unknown by mistake."""
        return self[key].maybe_self(read)

    def maybe_self(self, read: Callable[[_Found], T]) -> T | None:
        return None if self.value is None else read(self)

    def items(self, most: int) -> Iterator[_Found]:
        if not isinstance(self.value, list) or len(self.value) > most:
            raise self.odd(f"is not a list of at most {most} entries")
        return (_Found(item, f"{self.path}[{index}]") for index, item in enumerate(self.value))

    def entries(self, most: int) -> Iterator[tuple[str, _Found]]:
        if not isinstance(self.value, dict) or len(self.value) > most:
            raise self.odd(f"is not an object of at most {most} entries")
        return ((_Found(key, self.path).text(), _Found(item, self.path)) for key, item in self.value.items())

    def text(self, pattern: re.Pattern[str] | None = None) -> str:
        """Printable characters alone: what is printed on a terminal must not command it."""
        good = isinstance(self.value, str) and len(self.value) <= _MOST_TEXT and self.value.isprintable()
        if not good or (pattern is not None and not pattern.fullmatch(self.value)):
            raise self.odd("is not the text that it should be")
        return str(self.value)

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.odd("is neither true nor false")
        return self.value

    def whole(self, low: int, high: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not low <= self.value <= high:
            raise self.odd(f"is not a whole number from {low} to {high}")
        return self.value

    def number(self, low: float, high: float) -> float:
        good = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not good or not low <= self.value <= high:
            raise self.odd(f"is not a number from {low:g} to {high:g}")
        return float(self.value)

    def figure(self) -> float:
        """A measured figure; NaN for null, which the verdict then calls impossible."""
        return math.nan if self.value is None else self.number(-1e12, 1e12)


def _document(content: bytes, name: str) -> _Found:
    if len(content) > MOST_BYTES:
        raise InfrastructureError(f"{name} is longer than {MOST_BYTES >> 20} MiB: the runner's answer cannot be used")
    try:
        text = content.decode()
        if _depth(text) > _MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except ValueError as error:
        raise InfrastructureError(f"{name} is not JSON ({error}): the runner's answer cannot be used") from error
    return _Found(value, name)


def _depth(text: str) -> int:
    """The deepest nesting, without a recursion that the text could exhaust."""
    depth = deepest = 0
    for mark in re.findall(r'(?s)"(?:[^"\\]|\\.)*+"?|[\[{\]}]', text):  # "?: a string that never ends is passed once
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    return deepest


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found
