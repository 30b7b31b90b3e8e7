"""Prune a checkpoint: zeros where they cost the least KL, and what that changed."""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.calibrating import HELD_OUT_WINDOWS, STATISTICS_TOKENS
from edgekit.clock import Clock
from edgekit.export.huggingface import require_new, write_folder
from edgekit.models.calibration import calibration_windows, split
from edgekit.models.checkpoint import Checkpoint, open_folder
from edgekit.models.divergence import WINDOW, first_scored
from edgekit.models.errors import InputError
from edgekit.models.forward import HeldOut, load_model, parameter_name, reference_logits
from edgekit.models.spec import TensorSpec
from edgekit.models.tokenizer import load_tokenizer
from edgekit.pruning_file import PRUNING_FILE, pruning_text
from edgekit.quant.candidates import fallback
from edgekit.quant.collection import collect
from edgekit.quant.formats import FORMATS, Format, format_of
from edgekit.quant.sparsity import SCORES, histogram, keeps_zeros, prune_matrix, saliencies, shares
from edgekit.quant.statistics import KroneckerTerm
from edgekit.zeros import COMPRESSION_LEVEL, GGUF_NOTE, LEFT_ALONE, prunable

if TYPE_CHECKING:
    import torch

ZERO_NOTE = "other types have no zero; where rounding compensates for errors, a few zeros of these become small values"
FOUR_BIT = "q4_0"  # a zero stays a zero in it
COMPRESSION_THREADS = 2

Windows = NDArray[np.int64]  # (W, T) token ids


@dataclass(frozen=True)
class CompressedBytes:
    """The pruned matrices' bytes: as they are, and by zlib, each matrix on its own, before pruning and after."""

    plain: int
    zlib_before: int
    zlib_after: int


@dataclass(frozen=True)
class Pruned:
    """A pruned checkpoint. KL in nats per token and perplexities, on calibration windows that pruning did not see.

    `sparsity` is the share of zeros in all pruned matrices, `matrices` that of each. `stored` compares bytes in the
    checkpoint's own types, `four_bit` in Q4_0 blocks. `zero_types`: the GGUF types in which zero is a number.
    """

    path: Path
    bytes: int  # of the safetensors
    score: str
    sparsity: float
    matrices: Mapping[str, float]
    kld: float
    perplexity_before: float
    perplexity_after: float
    stored: CompressedBytes
    four_bit: CompressedBytes
    zero_types: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()


def prune(
    checkpoint: str | Path,
    output: Path,
    *,
    sparsity: float,
    score: str = "sparsegpt",
    calib: Sequence[Path] = (),
    seed: int = 0,
    adapter: Path | None = None,
) -> Pruned:
    """Set that share of the weights of the layers' matrices to zero and write the folder `output`.

    "sparsegpt" gives each matrix the share that costs the whole model the least KL; "wanda" and "magnitude", for
    comparison, give all the same. `calib`: UTF-8 texts; none: text sampled from the model itself. pruning.json in the
    folder says what was done. Raises InputError for what cannot be used, TargetError where writing fails.
    """
    if not 0 < sparsity < 1:
        raise InputError(f"--sparsity {sparsity:g} is out of range: give a share between 0 and 1, as 0.5")
    if score not in SCORES:
        raise InputError(f"there is no score {score!r}: choose one of {', '.join(SCORES)}")
    require_new(output)
    clock = Clock()
    with clock.stage("open"):
        opened = open_folder(checkpoint, adapter=adapter)
    with clock.stage("calibration"):
        model, seen, held_out = _windows(opened, calib, seed)
    with clock.stage("measurements"):
        divergence = HeldOut(model, held_out, first=first_scored(held_out.shape[1]))
        perplexity_before = _perplexity(model, held_out)
    matrices = _Matrices(opened, model)
    with tempfile.TemporaryDirectory() as folder:
        terms: Mapping[str, KroneckerTerm] = {}
        if score != "magnitude":
            with clock.stage("statistics"):
                terms = _collect(matrices, seen, seed, Path(folder))
        with clock.stage("pruning"):
            _prune(matrices, terms, sparsity, score)
    with clock.stage("measurements"):
        kld, perplexity_after = divergence.kld(), _perplexity(model, held_out)
    with clock.stage("compressed sizes"):
        stored, four_bit = _compressed(matrices, matrices.format), _compressed(matrices, _four_bit)
    counts = {tensor.name: int(np.count_nonzero(matrices.read(tensor.name) == 0)) for tensor in matrices.tensors}
    pruned = Pruned(
        path=output,
        bytes=0,
        score=score,
        sparsity=sum(counts.values()) / sum(math.prod(tensor.shape) for tensor in matrices.tensors),
        matrices={tensor.name: counts[tensor.name] / math.prod(tensor.shape) for tensor in matrices.tensors},
        kld=kld,
        perplexity_before=perplexity_before,
        perplexity_after=perplexity_after,
        stored=stored,
        four_bit=four_bit,
        zero_types=tuple(format.name for format in FORMATS if keeps_zeros(format)),
        seconds=clock.seconds,
        notes=opened.notes,
    )
    with clock.stage("writing"):
        texts = {PRUNING_FILE: _document(pruned, calib, seed)}
        size = write_folder(opened, output, matrices.read, config=opened.config, texts=texts)
    return replace(pruned, bytes=size)


class _Matrices:
    """The layers' matrices: as the checkpoint has them, and as they are in the model, which is pruned in place."""

    def __init__(self, checkpoint: Checkpoint, model: Any) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self.tensors = prunable(checkpoint)
        parameters: dict[str, torch.Tensor] = dict(model.named_parameters())
        self._parameters = {tensor.name: parameters[parameter_name(tensor.name)].data for tensor in self.tensors}

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor as the model has it; those that are not pruned come from the checkpoint."""
        if name not in self._parameters:
            return self.checkpoint.read(name)
        values: NDArray[np.float32] = self._parameters[name].numpy()
        return values

    def write(self, tensor: TensorSpec, values: NDArray[np.float32]) -> None:
        """Put a matrix into the model, rounded to the type that it is stored in."""
        format = self.format(tensor)
        self._parameters[tensor.name].numpy()[:] = format.decode(format.encode(values, None))

    def format(self, tensor: TensorSpec) -> Format:
        """The type that the matrix is stored in; F32 for an F64 one."""
        dtype = self.checkpoint.source.dtype(tensor.name)
        return format_of("f32" if dtype == "F64" else dtype.lower())


def _windows(checkpoint: Checkpoint, calib: Sequence[Path], seed: int) -> tuple[Any, Windows, Windows]:
    """The model, the windows for statistics and those held out."""
    tokenizer, model = load_tokenizer(checkpoint), load_model(checkpoint)
    windows = calibration_windows(
        tokenizer,
        calib,
        tokens=STATISTICS_TOKENS + HELD_OUT_WINDOWS * WINDOW,
        length=min(WINDOW, checkpoint.spec.context),
        seed=seed,
        model=model,
    )
    return model, *split(windows, HELD_OUT_WINDOWS)


def _collect(matrices: _Matrices, windows: Windows, seed: int, folder: Path) -> dict[str, KroneckerTerm]:
    """The statistics of every matrix by name; the moments lie in files in `folder`, mapped when they are used."""
    wanted = {tensor.name for tensor in matrices.tensors}
    terms: dict[str, KroneckerTerm] = {}
    for statistics in collect(matrices.model, matrices.checkpoint, windows, seed=seed):
        if statistics.name in wanted:
            term, path = statistics.terms[0], folder / f"{len(terms)}.npy"
            np.save(path, term.columns)
            terms[statistics.name] = KroneckerTerm(term.rows, np.load(path, mmap_mode="r"))
    return terms


def _prune(matrices: _Matrices, terms: Mapping[str, KroneckerTerm], sparsity: float, score: str) -> None:
    tensors = matrices.tensors
    counts = {tensor.name: round(sparsity * math.prod(tensor.shape)) for tensor in tensors}
    if score == "sparsegpt":
        progress = tqdm(tensors, desc="scores", unit="matrix", disable=None)
        scores = {t.name: histogram(saliencies(matrices.read(t.name), terms[t.name])) for t in progress}
        counts = shares(scores, sum(counts.values()))
    for tensor in tqdm(tensors, desc="pruning", unit="matrix", disable=None):
        values = matrices.read(tensor.name)
        matrices.write(tensor, prune_matrix(values, terms.get(tensor.name), score, counts[tensor.name]))


def _perplexity(model: Any, windows: Windows) -> float:
    """Of the second half of each window, by the model as it is now."""
    first, losses = first_scored(windows.shape[1]), []
    for window in windows:
        logits = reference_logits(model, window, first)[:-1]
        top = logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits - top, window[first + 1 :, None], axis=1)[:, 0]
        losses.append(np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) - chosen)
    return math.exp(np.concatenate(losses).mean())


def _compressed(matrices: _Matrices, format: Callable[[TensorSpec], Format]) -> CompressedBytes:
    """The sizes in each matrix's `format`."""

    def sizes(tensor: TensorSpec) -> list[int]:
        originals, values = matrices.checkpoint.read(tensor.name), matrices.read(tensor.name)
        before, after = (format(tensor).encode(rows, None) for rows in (originals, values))
        return [before.nbytes, *(len(zlib.compress(blocks.data, COMPRESSION_LEVEL)) for blocks in (before, after))]

    with ThreadPoolExecutor(COMPRESSION_THREADS) as pool:
        progress = tqdm(matrices.tensors, desc="compressed sizes", unit="matrix", disable=None)
        return CompressedBytes(*np.sum(list(pool.map(sizes, progress)), axis=0).tolist())


def _four_bit(tensor: TensorSpec) -> Format:
    return fallback(FOUR_BIT, tensor.shape[1])


def _document(pruned: Pruned, calib: Sequence[Path], seed: int) -> str:
    """pruning.json."""
    document = {
        "score": pruned.score,
        "sparsity": pruned.sparsity,
        "left_alone": LEFT_ALONE,
        "seed": seed,
        "calibration": ", ".join(map(str, calib)) or "sampled from the model",
        "held_out": {
            "kld": pruned.kld,
            "perplexity_before": pruned.perplexity_before,
            "perplexity_after": pruned.perplexity_after,
        },
        "bytes": {
            "note": f"of the pruned matrices; zlib at level {COMPRESSION_LEVEL}, each matrix on its own",
            "stored": asdict(pruned.stored),
            "four_bit": {"type": FOUR_BIT, **asdict(pruned.four_bit)},
        },
        "gguf": {"note": GGUF_NOTE, "types_with_a_zero": pruned.zero_types, "zeros": ZERO_NOTE},
        "matrices": pruned.matrices,
    }
    return pruning_text(document)
