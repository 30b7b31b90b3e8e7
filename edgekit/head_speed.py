"""What a pruned model is worth in use: Q8_0 files of both models, run by the native runtime on this machine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.devices.measure import measure, prompt_ids
from edgekit.devices.result import Sample, summarise
from edgekit.export.gguf import write_gguf
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.spec import ModelSpec
from edgekit.models.tokenizer import TokenizerFiles
from edgekit.quant.candidates import fallback
from edgekit.quant.plan import matrices
from edgekit.runtimes import native

FORMAT = "q8_0"
PROMPT_TOKENS, GENERATED_TOKENS = 256, 32
REPETITIONS = 5


@dataclass(frozen=True)
class Deployment:
    """A Q8_0 file of a model: bytes, and tokens per second (medians) of a prompt and of greedy decoding after it."""

    prompt_tokens: int
    generated_tokens: int
    file_bytes: int
    cache_bytes: int  # of the prompt's positions, as allocated
    cache_bytes_per_token: int  # keys and values of one position in float16, all layers
    prefill_tps: float
    decode_tps: float


def deployments(models: tuple[Checkpoint, Checkpoint], tokenizer: TokenizerFiles) -> tuple[Deployment, Deployment]:
    """Both models' figures, measured in turns; the files are written to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = [Path(folder) / f"{index}.gguf" for index in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            _write(model, tokenizer, path)
        prompt = min(PROMPT_TOKENS, min(model.spec.context for model in models) // 2)
        generated = min(GENERATED_TOKENS, prompt)
        for path in paths:
            measure(path, "native", prompt, generated, None)
        samples: list[list[Sample]] = [[], []]
        for _ in range(REPETITIONS):
            for path, taken in zip(paths, samples, strict=True):
                taken.append(measure(path, "native", prompt, generated, None))
        before, after = (
            _deployment(model.spec, path, prompt, generated, tuple(taken))
            for model, path, taken in zip(models, paths, samples, strict=True)
        )
        return before, after


def _write(model: Checkpoint, tokenizer: TokenizerFiles, path: Path) -> None:
    formats = {tensor.name: fallback(FORMAT, tensor.shape[1]) for tensor in matrices(model.tensors)}
    blocks = ((name, format.encode(model.read(name), None)) for name, format in formats.items())
    write_gguf(model, tokenizer, blocks, {name: format.name for name, format in formats.items()}, path)


def _deployment(spec: ModelSpec, path: Path, prompt: int, generated: int, samples: tuple[Sample, ...]) -> Deployment:
    session = native.load(path, context=prompt, threads=None)
    try:
        session.prefill(prompt_ids(session, prompt))
        cache = session.stats().cache_bytes
    finally:
        session.close()
    assert cache is not None
    summary = summarise(samples)
    return Deployment(
        prompt_tokens=prompt,
        generated_tokens=generated,
        file_bytes=path.stat().st_size,
        cache_bytes=cache,
        cache_bytes_per_token=2 * 2 * spec.head_dim * sum(spec.kv_heads),
        prefill_tps=summary.prefill_tps.median,
        decode_tps=summary.decode_tps.median,
    )
