"""Prune query heads, KV groups and feed-forward channels: choose, cut, repair, recover, write a smaller checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.calibrating import STATISTICS_TOKENS
from edgekit.clock import Clock
from edgekit.export.huggingface import require_new, write_folder
from edgekit.head_speed import deployments
from edgekit.models.calibration import calibration_windows, split
from edgekit.models.checkpoint import Checkpoint, open_checkpoint, open_folder
from edgekit.models.divergence import WINDOW
from edgekit.models.errors import InputError
from edgekit.models.families.counts import loads_in_transformers
from edgekit.models.forward import load_model, parts
from edgekit.models.spec import ModelSpec
from edgekit.models.tokenizer import TokenizerFiles, load_tokenizer
from edgekit.pruned_heads import HeadOptions, HeadsPruned
from edgekit.pruning_file import PRUNING_FILE, pruning_text
from edgekit.quant.cutting import cut, of_model
from edgekit.quant.head_scores import SCORES
from edgekit.quant.recovering import METHOD, recover
from edgekit.quant.removal import choose
from edgekit.quant.repair import repair
from edgekit.quant.store import store_key
from edgekit.quant.structure import Goal, Structure, remove
from edgekit.quant.teacher import Teacher, judge, stride
from edgekit.quant.training import windows_per_step
from edgekit.report.heads import pruning_page

HELD_OUT = 6  # windows by which a step of the way is taken or left, and again as many by which the result is judged
REPAIR_TOKENS = 1 << 15  # of text, if there is any; sampling as much from the model would take long
RECOVERY_TOKENS = 1 << 18  # of text at most; what is longer is sampled from evenly


def prune_heads(
    checkpoint: str | Path,
    output: Path,
    options: HeadOptions,
    *,
    calib: Sequence[Path] = (),
    seed: int = 0,
    adapter: Path | None = None,
    work: Path | None = None,
) -> HeadsPruned:
    """Write `output`, a Hugging Face folder whose tensors are smaller, with pruning.json and pruning.html in it.

    `calib`: UTF-8 texts; none: text sampled from the model itself. `work`: a folder from which a recovery that was
    killed goes on. Raises InputError for what cannot be used, TargetError where writing fails.
    """
    if options.score not in SCORES:
        raise InputError(f"there is no score {options.score!r}: choose one of {', '.join(SCORES)}")
    require_new(output)
    clock = Clock()
    with clock.stage("open"):
        opened = open_folder(checkpoint, adapter=adapter)
        goals = options.goals(opened.spec)
        _check_family(opened, goals)
        tokenizer = load_tokenizer(opened)
    with clock.stage("calibration"):
        whole = load_model(opened)
        windows = _windows(opened, tokenizer, whole, options, calib, seed)
        teacher = Teacher(whole, windows.ids)
        quality = {"unpruned": judge(whole, teacher, windows.judged)}
    with clock.stage("choice"):
        full = Structure.full(opened.spec)
        removal = choose(whole, teacher, windows.seen, windows.held_out, full, goals, SCORES[options.score])
    with clock.stage("cutting"):
        smaller = cut(opened, removal.structure)
        model = load_model(smaller)
        _share_vocabulary(whole, model)
        quality["pruned"] = judge(model, teacher, windows.judged)
    with clock.stage("repair"):
        repaired = repair(whole, model, teacher, windows.seen, windows.held_out)
        left = of_model(smaller, model)
        quality["repaired"] = judge(model, teacher, windows.judged)
    del whole
    recovered = None
    if options.recover:
        with clock.stage("recovery"):
            place = None if work is None else work / _key(opened, removal.structure, windows, options, seed)
            recovered = recover(
                model,
                teacher,
                windows.seen,
                windows.held_out,
                steps=options.recover,
                seconds=options.recover_seconds,
                seed=seed,
                folder=place,
            )
            left = of_model(smaller, model)
            quality["recovered"] = judge(model, teacher, windows.judged)
    with clock.stage("speed"):
        before, after = deployments((opened, left), tokenizer)
    pruned = HeadsPruned(
        path=output,
        bytes=0,
        bytes_before=opened.stored_bytes,
        options=options,
        goals=goals,
        removal=removal,
        repaired=repaired,
        recovered=recovered,
        quality=quality,
        before=before,
        after=after,
        seconds=dict(clock.seconds),
        calib=tuple(calib),
        seed=seed,
        notes=(*opened.notes, *_notes(opened.spec, left, options, goals)),
    )
    with clock.stage("writing"):
        texts = {PRUNING_FILE: pruning_text(pruned.document()), "pruning.html": pruning_page(pruned)}
        size = write_folder(left, output, left.read, config=left.config, texts=texts)
    return replace(pruned, bytes=size, seconds=clock.seconds)


def _check_family(checkpoint: Checkpoint, goals: Sequence[Goal]) -> None:
    """Refuse at once what the family cannot express with fewer heads, whichever these are."""
    structure = Structure.full(checkpoint.spec)
    for target in goals:
        costs = np.zeros((checkpoint.spec.layers, max(*checkpoint.spec.heads, *checkpoint.spec.ffn)))
        structure, _ = remove(structure, costs, target, target.total)
    try:
        cut(checkpoint, structure)
    except InputError as error:  # as Gemma 3's of 62 layers, whose attention GGUF scales by the number of heads
        family = checkpoint.spec.family
        raise InputError(f"a {family} of these sizes cannot lose query heads ({error}): prune --ffn instead") from error


def _share_vocabulary(whole: Any, model: Any) -> None:
    """Nothing changes the embedding and the head: one copy in memory is enough, and they are most of a small model."""
    for ours, theirs in ((parts(model).embedding, parts(whole).embedding), (parts(model).head, parts(whole).head)):
        ours.weight = theirs.weight


@dataclass(frozen=True)
class _Windows:
    """Token ids (W, T); which windows training sees, by which choices are made, by which the result is judged.

    Each of the latter two are neighbours in the text: what is fitted to a document's other windows looks better on it
    than it is.
    """

    ids: NDArray[np.int64]
    seen: NDArray[np.int64]
    held_out: NDArray[np.int64]
    judged: NDArray[np.int64]


def _windows(
    checkpoint: Checkpoint,
    tokenizer: TokenizerFiles,
    model: Any,
    options: HeadOptions,
    calib: Sequence[Path],
    seed: int,
) -> _Windows:
    length = min(WINDOW, checkpoint.spec.context)
    tokens = STATISTICS_TOKENS
    if calib:
        at_once = windows_per_step(length, checkpoint.spec.vocab // stride(length, checkpoint.spec.vocab))
        tokens = max(REPAIR_TOKENS, min(RECOVERY_TOKENS, options.recover * at_once * length))
    ids = calibration_windows(
        tokenizer, calib, tokens=tokens + 2 * HELD_OUT * length, length=length, seed=seed, model=model
    )
    each = min(HELD_OUT, len(ids) // 4)
    seen, others = split(np.arange(len(ids)), 2 * each, run=each)
    return _Windows(ids, seen, others[:each], others[each:])


def _key(checkpoint: Checkpoint, structure: Structure, windows: _Windows, options: HeadOptions, seed: int) -> str:
    """The name of the folder of this very recovery."""
    what = f"{METHOD} {windows.ids.tobytes().hex()} {structure.layers} {options.recover} {options.recover_seconds}"
    return store_key(checkpoint, hashlib.sha256(what.encode()).hexdigest(), seed)


def _notes(spec: ModelSpec, left: Checkpoint, options: HeadOptions, goals: Sequence[Goal]) -> Iterator[str]:
    """What the user should know of the model that is left."""
    for target in goals:
        channels = target.kind == "channels"
        unit, whole, share = (
            ("feed-forward channels", sum(spec.ffn), options.ffn)
            if channels
            else ("query heads", sum(spec.heads), options.heads)
        )
        assert share is not None
        if target.total != round(share * whole, 6):
            yield f"{target.total} of {whole} {unit} went: the fewest that can go and are at least {share:g} of them"
    if not left.spec.runs_in_llama_cpp:
        yield (
            f"llama.cpp has no {left.spec.family} graph with counts of each layer's own: a GGUF of this checkpoint "
            "runs in edgekit's native and torch runtimes; --uniform makes one for llama.cpp too"
        )
    if not loads_in_transformers(left.config, left.spec):
        yield "transformers' own class cannot express these counts: edgekit loads the folder, transformers does not"
    narrow = sum(heads * spec.head_dim % 256 != 0 for heads in left.spec.heads)
    if narrow and all(heads * spec.head_dim % 256 == 0 for heads in spec.heads):
        yield f"in {narrow} layers o_proj's columns are no multiple of 256 any more: there K-quants give way to others"


def pruned_folder(
    checkpoint: str | Path,
    work: Path,
    options: HeadOptions,
    *,
    calib: Sequence[Path] = (),
    seed: int = 0,
    adapter: Path | None = None,
) -> Path:
    """The folder under `work` that `prune_heads` writes; one of the same input that is there already is taken."""
    opened = open_checkpoint(checkpoint, adapter=adapter)
    digest = hashlib.sha256(f"{METHOD} {options}".encode())
    for text in calib:
        digest.update(text.read_bytes())
    folder = work / f"pruned-{store_key(opened, digest.hexdigest(), seed)}"
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"{opened.path.absolute().name}-pruned"
    if not output.exists():
        prune_heads(checkpoint, output, options, calib=calib, seed=seed, adapter=adapter, work=work)
    return output
