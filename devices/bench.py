"""Benchmark a file on this machine: load, first token, prefill, decode, peak memory, and a verdict."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import gguf
from tqdm import tqdm

from edgekit.devices import host
from edgekit.devices.deploy import file_sha256
from edgekit.devices.measure import measure
from edgekit.devices.predict import predict_run
from edgekit.devices.profile import load_host
from edgekit.devices.reads import token_reads
from edgekit.devices.result import BenchResult, Build, Config, Machine, Memory, ModelFile, Sample, summarise
from edgekit.devices.verdict import judge
from edgekit.models.errors import InputError
from edgekit.models.gguf_header import read_header
from edgekit.runtimes import CacheTypes, choose_runtime, thread_count
from edgekit.runtimes.session import available_cores

_PACKAGES = {"native": "edgekit", "llama.cpp": "llama-cpp-python", "torch": "torch", "onnx": "onnxruntime"}


def bench(
    model: Path,
    *,
    runtime: str | None = None,
    prompt_tokens: int = 512,
    gen_tokens: int = 64,
    reps: int = 5,
    threads: int | None = None,
    cache: CacheTypes | None = None,
) -> BenchResult:
    """Run fixed token ids `reps` times after one run to warm up, and once more in a process of its own for the memory.

    Decoding is greedy and does not stop at end tokens. `runtime`: None for `choose_runtime`'s. Raises
    InputError for a file that cannot be run, or options that are out of range or beyond the model's context.
    """
    (result,) = bench_models(
        [model],
        runtime=runtime,
        prompt_tokens=prompt_tokens,
        gen_tokens=gen_tokens,
        reps=reps,
        threads=threads,
        cache=cache,
    )
    return result


def bench_models(
    models: Sequence[Path],
    *,
    runtime: str | None = None,
    prompt_tokens: int = 512,
    gen_tokens: int = 64,
    reps: int = 5,
    threads: int | None = None,
    cache: CacheTypes | None = None,
) -> list[BenchResult]:
    """`bench` of one model or of two, their repetitions in turns: A B B A.

    Raises InputError also where the options come to different settings for the two.
    """
    runtimes = [choose_runtime(runtime, model) for model in models]
    configs = [_config(name, prompt_tokens, gen_tokens, reps, threads, cache) for name in runtimes]
    if configs[0] != configs[-1]:
        raise InputError(f"{runtimes[0]} and {runtimes[-1]} would not use as many threads: give --threads")
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    def run(number: int) -> Sample:
        return measure(models[number], runtimes[number], prompt_tokens, gen_tokens, threads, cache)

    for number in range(len(models)):
        run(number)
    samples: list[list[Sample]] = [[] for _ in models]
    for repetition in tqdm(range(len(models) * reps), desc="bench", unit="run", disable=None):
        number = turn(len(models), repetition)
        samples[number].append(run(number))
    machine = _machine(load_average)
    return [
        _result(model, runtimes[number], configs[number], tuple(samples[number]), machine, threads)
        for number, model in enumerate(models)
    ]


def turn(models: int, repetition: int) -> int:
    """Whose it is: A B B A A B B A, so that neither is always first and neighbours are pairs. As devices have it."""
    pair, place = divmod(repetition, models)
    return models - 1 - place if pair % 2 else place


def _result(
    model: Path,
    runtime: str,
    config: Config,
    samples: tuple[Sample, ...],
    machine: Machine,
    threads: int | None,
) -> BenchResult:
    memory = _memory(model, runtime, config, threads)
    summary = summarise(samples)
    status, reasons = judge(samples, summary, config, memory, machine)
    reads = None if model.is_dir() else token_reads(model, config)
    return BenchResult(
        run_id=uuid.uuid4().hex,
        status=status,
        reasons=reasons,
        machine=machine,
        build=_build(runtime),
        model=model_file(model),
        config=config,
        samples=samples,
        memory=memory,
        summary=summary,
        unavailable={"timeline": "clocks and temperatures are watched with --device alone"},
        reads=reads,
        predicted=predict_run(load_host(config.threads), reads) if reads is not None and runtime == "native" else None,
    )


def _config(
    runtime: str, prompt_tokens: int, gen_tokens: int, reps: int, threads: int | None, cache: CacheTypes | None
) -> Config:
    check_range(prompt_tokens, gen_tokens, reps)
    return Config(
        prompt_tokens, gen_tokens, reps, thread_count(runtime, threads), None if cache is None else str(cache)
    )


def check_range(prompt_tokens: int, gen_tokens: int, reps: int) -> None:
    """InputError for a workload of nothing."""
    for option, value, least in (
        ("--prompt-tokens", prompt_tokens, 1),
        ("--gen-tokens", gen_tokens, 2),  # one interval between tokens at least
        ("--reps", reps, 1),
    ):
        if value < least:
            raise InputError(f"{option} {value} is out of range: give {least} or more")


def _memory(model: Path, runtime: str, config: Config, threads: int | None) -> Memory:
    """A fresh process, so that neither earlier repetitions nor other models count."""
    numbers = (config.prompt_tokens, config.gen_tokens, threads or 0, config.cache_type or "")
    command = [sys.executable, "-m", "edgekit.devices.measure", str(model), runtime, *map(str, numbers)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Memory(None, None, f"its process ended with {run.returncode}: {last}")
    found = json.loads(run.stdout.splitlines()[-1])
    if found["peak_bytes"] is None:
        return Memory(None, None, "this system does not tell a process's largest resident set")
    return Memory(found["peak_bytes"], found["baseline_bytes"])


def _machine(load_average: float | None) -> Machine:
    return Machine(
        cpu=host.cpu_model(),
        isa=host.isa(),
        cores=available_cores(),
        ram_bytes=host.ram_bytes(),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        os=platform.system(),
        kernel=platform.release(),
        load_average=load_average,
    )


def _build(runtime: str) -> Build:
    return Build(
        edgekit=metadata.version("edgekit"),
        python=platform.python_version(),
        runtime=runtime,
        runtime_version=metadata.version(_PACKAGES[runtime]),
    )


def model_file(path: Path) -> ModelFile:
    """A file's digest and the bytes of each of its types; InputError where it is no whole GGUF or ONNX folder."""
    if path.is_dir():
        return _onnx_folder(path)
    types: dict[str, int] = {}
    for tensor in read_header(path).tensors:
        kind = gguf.GGMLQuantizationType(tensor.ggml_type)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        types[kind.name] = types.get(kind.name, 0) + math.prod(tensor.shape) // block * block_bytes
    return ModelFile(path=str(path), sha256=file_sha256(path), bytes=path.stat().st_size, types=types)


def _onnx_folder(path: Path) -> ModelFile:
    """A folder's graph and weights; the graph's sha256 stands for both, for it has that of the weights in it."""
    from edgekit.runtimes.onnx import stored_types

    types = {name.upper(): size for name, size in stored_types(path).items()}
    size = sum(file.stat().st_size for file in path.glob("model.onnx*"))
    return ModelFile(str(path), file_sha256(path / "model.onnx"), size, types)
