"""What the runner answers, checked field by field: it comes from another machine, and anything odd in it is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from edgekit.devices.checked import Found, document
from edgekit.devices.result import Core, Memory, Moment, Sample
from edgekit.devices.stored import (
    MOST_BYTES,
    MOST_CORES,
    MOST_MOMENTS,
    MOST_REPS,
    MOST_TOKENS,
    names,
    read_core,
    read_cpus,
    read_memory,
    read_moment,
    read_sample,
)
from edgekit.models.errors import InfrastructureError

PROTOCOL = 1
_NONCE = re.compile(r"[0-9a-f]{8,64}")


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
    return _probe(_protocol(_read(content.encode(), f"{device}: the probe")))


def read_state(content: str, device: str) -> RunState:
    """`edgekit-bench wait`'s line."""
    answer = _read(content.encode(), f"{device}: the state of the run")
    state = answer["state"].text()
    if state not in ("running", "done", "failed", "gone"):
        raise answer["state"].odd("is none that there is")
    return RunState(
        state=state,
        progress=answer.maybe("progress", lambda found: found.number(0, 1)),
        exit=answer.maybe("exit", lambda found: found.whole(0, 255)),
        signal=answer.maybe("signal", lambda found: found.whole(1, 64)),
        nonce=answer.maybe("nonce", lambda found: found.text(_NONCE)),
        error=answer.maybe("error", Found.text),
    )


def read_result(content: bytes, device: str) -> RunAnswer:
    """`result.json` of a run."""
    answer = _protocol(_read(content, f"{device}: the result"))
    models = tuple(_model(found) for found in answer["models"].items(2))
    if not models:
        raise answer["models"].odd("is empty")
    by_model: list[list[Sample]] = [[] for _ in models]
    for found in answer["samples"].items(MOST_REPS * len(models)):
        by_model[found["model"].whole(0, len(models) - 1)].append(_sample(found))
    memory = tuple(read_memory(found) for found in answer["memory"].items(len(models)))
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
        timeline=tuple(read_moment(found) for found in answer["timeline"].items(MOST_MOMENTS)),
        suspended_s=answer.maybe("suspended_s", lambda found: found.number(0, 1e7)),
        reasons={name: found.text() for name, found in answer["reasons"].entries(64)},
    )


def _protocol(answer: Found) -> Found:
    if answer["protocol"].whole(0, 1 << 30) != PROTOCOL:
        raise answer["protocol"].odd(f"is not {PROTOCOL}, as that of another version of edgekit")
    return answer


def _probe(answer: Found) -> Probe:
    return Probe(
        model=answer.maybe("model", Found.text),
        cpu=answer.maybe("cpu", Found.text),
        isa=tuple(found.text() for found in answer["isa"].items(64)),
        cores=tuple(read_core(found) for found in answer["cores"].items(MOST_CORES)),
        online=answer["online"].whole(1, MOST_CORES),
        ram_bytes=answer["ram_bytes"].whole(1 << 20, 1 << 50),
        available_bytes=answer.maybe("available_bytes", lambda found: found.whole(0, 1 << 50)),
        page_bytes=answer["page_bytes"].whole(1 << 9, 1 << 30),
        os=answer["os"].text(),
        kernel=answer["kernel"].text(),
        machine=answer["machine"].text(),
        emulated=answer.maybe("emulated", Found.flag),
        emulated_why=answer.maybe("emulated_why", Found.text),
        disk_free_bytes=answer.maybe("disk_free_bytes", lambda found: found.whole(0, 1 << 60)),
    )


def _build(answer: Found) -> RunnerBuild:
    return RunnerBuild(
        edgekit=answer["edgekit"].text(),
        git=answer.maybe("git", Found.text),
        compiler=answer.maybe("compiler", Found.text),
        flags=answer.maybe("flags", Found.text),
        isa_built=answer.maybe("isa_built", names) or (),
    )


def _config(answer: Found) -> RunConfig:
    return RunConfig(
        prompt_tokens=answer["prompt_tokens"].whole(1, MOST_TOKENS),
        gen_tokens=answer["gen_tokens"].whole(1, MOST_TOKENS),
        reps=answer["reps"].whole(1, MOST_REPS),
        threads=answer["threads"].whole(1, MOST_CORES),
        cache=answer.maybe("cache", Found.text),
        affinity=answer.maybe("affinity", read_cpus),
    )


def _model(answer: Found) -> RunModel:
    return RunModel(
        bytes=answer["bytes"].whole(1, 1 << 50),
        architecture=answer.maybe("architecture", Found.text),
        isa=answer.maybe("isa", Found.text),
        weight_bytes=answer["weight_bytes"].whole(0, 1 << 50),
        decode_bytes=answer["decode_bytes"].whole(0, 1 << 50),
    )


def _sample(answer: Found) -> Sample:
    answer["at_s"].number(0, 1e7)  # never null here
    return read_sample(answer)


def _read(content: bytes, name: str) -> Found:
    return document(content, name, _wrong, MOST_BYTES)


def _wrong(sentence: str) -> InfrastructureError:
    return InfrastructureError(f"{sentence}: the runner's answer cannot be used")
