"""Benchmark a file on a device: what the runner measured, with what the desk knows of file, profile and validity."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.devices.bench import check_range, model_file
from edgekit.devices.predict import predict_run
from edgekit.devices.reads import token_reads
from edgekit.devices.remote import Measured, Workload, measure_on, named
from edgekit.devices.result import (
    BenchResult,
    Build,
    Config,
    DeviceRun,
    Machine,
    ModelFile,
    Sample,
    Verdict,
    summarise,
)
from edgekit.devices.target import Target
from edgekit.devices.vendor import held_back
from edgekit.devices.verdict import device_doubts, judge
from edgekit.models.errors import InputError
from edgekit.models.tokenizer_gguf import read_gguf
from edgekit.runtimes import CacheTypes
from edgekit.runtimes.tokens import Tokens


def bench_device(model: Path, target: Target | str, **options: Any) -> BenchResult:
    """`bench`, on another machine: the same workload and figures, by the static runner there.

    The options are `bench_models_on`'s.
    """
    return bench_models_on([model], target, **options)[0]


def bench_models_on(
    models: Sequence[Path],
    target: Target | str,
    *,
    prompt_tokens: int = 512,
    gen_tokens: int = 64,
    reps: int = 5,
    threads: int | None = None,
    cache: CacheTypes | None = None,
    deadline_s: int = 3600,
    keep: bool = False,
    as_evidence: bool = False,
) -> list[BenchResult]:
    """One model or two, in turns in one run: A B B A. The results share the run's timeline.

    `target` may be what `Target.parse` takes, such as "ssh:pi@192.168.1.20".

    `keep` leaves runner and models on the device for the next time. Raises InputError for files or options that cannot
    be used, InfrastructureError for all that goes wrong on the way to the device and there, InvalidResultError for an
    emulated device where the figures are to be evidence.
    """
    check_range(prompt_tokens, gen_tokens, reps)
    if isinstance(target, str):
        target = Target.parse(target)
    files = [model_file(model) for model in models]
    bos, end_tokens = _special_tokens(models)
    workload = Workload(
        prompt_tokens,
        gen_tokens,
        reps,
        bos=bos,
        end_tokens=end_tokens,
        threads=threads,
        cache=None if cache is None else str(cache),
        deadline_s=deadline_s,
    )
    measured = measure_on(files, target, workload, keep=keep, as_evidence=as_evidence)
    return [_result(file, number, target, measured) for number, file in enumerate(files)]


def _special_tokens(models: Sequence[Path]) -> tuple[int | None, tuple[int, ...]]:
    """The first token of a text and those that end one, which the runner is told once for all models."""
    found = []
    for model in models:
        tokens = Tokens(partial(read_gguf, model))
        found.append((tokens.bos, tuple(sorted(tokens.end_tokens))))
    for model, special in zip(models, found, strict=True):
        if special != found[0]:
            raise InputError(
                f"{models[0]} and {model} begin or end texts with different tokens, and so cannot run the same prompt "
                "on a device: compare models with one vocabulary"
            )
    return found[0]


def _result(file: ModelFile, number: int, target: Target, measured: Measured) -> BenchResult:
    """Of the run's model of that number."""
    answer = measured.answer
    facts = named(answer.device, measured.identity)
    used, build, samples, memory = answer.config, answer.build, answer.samples[number], answer.memory[number]
    config = Config(used.prompt_tokens, used.gen_tokens, used.reps, used.threads, used.cache, used.affinity)
    machine = Machine(
        cpu=facts.cpu,
        isa=facts.isa,
        cores=facts.online if used.affinity is None else len(used.affinity),
        ram_bytes=facts.ram_bytes,
        page_bytes=facts.page_bytes,
        os=facts.os,
        kernel=facts.kernel,
        load_average=answer.timeline[0].load if answer.timeline else None,
    )
    emulated = target.emulated or bool(facts.emulated)
    why = facts.emulated_why if facts.emulated else "its profile says so" if emulated else None
    summary = summarise(samples)
    status, reasons = judge(samples, summary, config, memory, machine)
    doubts = _doubts(target, measured, samples, why)
    reads = token_reads(Path(file.path), config)
    unavailable = dict(answer.reasons)
    if target.device is None:
        unavailable["predicted"] = "there is no profile of the device that has bandwidth_bytes_per_s"
    return BenchResult(
        run_id=uuid.uuid4().hex,
        status=_worse(status, doubts),
        reasons=(*reasons, *doubts),
        machine=machine,
        build=Build(
            edgekit=build.edgekit,
            python=None,
            runtime="native",
            runtime_version=build.edgekit,
            git=build.git,
            compiler=build.compiler,
            flags=build.flags,
            isa_built=build.isa_built,
            sha256=measured.runner_sha256,
        ),
        model=file,
        config=config,
        samples=samples,
        memory=memory,
        summary=summary,
        emulated=emulated,
        device=DeviceRun(target.name, target.transport, facts.model, facts.machine, facts.cores, target.tags, why),
        timeline=answer.timeline,
        suspended_s=answer.suspended_s,
        unavailable=unavailable,
        reads=reads,
        predicted=None if reads is None or target.device is None else predict_run(target.device, reads),
    )


def _worse(status: Verdict, doubts: list[str]) -> Verdict:
    return "degraded" if doubts and status == "valid" else status


def _doubts(target: Target, measured: Measured, samples: Sequence[Sample], emulated_why: str | None) -> list[str]:
    answer = measured.answer
    max_c = None if target.cooldown is None else target.cooldown.max_c
    used = answer.config.affinity
    cpus = [core.cpu for core in answer.device.cores] if used is None else used
    doubts = device_doubts(samples, answer.timeline, cpus, max_c)
    doubts += held_back(*measured.throttling)
    if emulated_why is not None:
        doubts.append(f"the device is emulated ({emulated_why}): its times say nothing of a real one")
    if answer.suspended_s:
        doubts.append(f"the device slept for {answer.suspended_s:.1f} s in mid-run")
    if measured.trouble is not None:
        doubts.append(measured.trouble)
    return doubts
