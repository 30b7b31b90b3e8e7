"""What the native runtime is measured for alone: the first token of a long prompt, cancelling it, and memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from turns import NATIVE, Figures, Row, in_turns, seconds

from edgekit import _native
from edgekit.devices import host

MICRO_BATCH = 512  # tokens, the library's default
PARTS = 5  # turns of a round


class LongPrompt:
    """A prompt that is computed again and again; the memory of its logits is there before any of it is timed."""

    def __init__(self, path: Path, ids: Sequence[int], threads: int) -> None:
        self.model = _native.Model(path, threads=threads)
        self.context = _native.Context(self.model, positions=len(ids), micro_batch=MICRO_BATCH)
        self.one_batch = _native.Context(self.model, positions=len(ids), micro_batch=len(ids))
        self.tokens = np.array(ids, np.int32)
        self.one = np.ones((1, self.model.vocab), np.float32)
        self.all = None  # of every position, where the machine's memory holds it twice
        if self.one.nbytes * len(ids) < host.ram_bytes() / 3:
            self.all = np.ones((len(ids), self.model.vocab), np.float32)
        self.chance = np.random.default_rng(0)
        self.first_token_s = self.first_token()["s"]

    def first_token(self) -> Figures:
        return self._prefill(self.context, self.one)

    def all_logits(self) -> Figures:
        assert self.all is not None
        return self._prefill(self.one_batch, self.all)

    def all_logits_anew(self) -> Figures:
        """With the time that the system takes to hand out their memory, as a caller has it who asks once."""
        start = time.perf_counter()
        self._prefill(self.one_batch, np.empty((len(self.tokens), self.model.vocab), np.float32))
        return {"s": time.perf_counter() - start}

    def _prefill(self, context: _native.Context, logits: NDArray[np.float32]) -> Figures:
        context.truncate(0, 0)
        return {"s": seconds(context.prefill, 0, self.tokens, logits)}

    def slowest_micro_batch(self) -> Figures:
        self.context.truncate(0, 0)
        parts = np.split(self.tokens, range(MICRO_BATCH, len(self.tokens), MICRO_BATCH))
        return {"s": max(seconds(self.context.prefill, 0, part) for part in parts)}

    def cancel(self) -> Figures:
        """From the call of cancel, somewhere in the prompt's first three quarters, to the end of the prefill."""
        self.context.truncate(0, 0)
        ended = 0.0

        def work() -> None:
            nonlocal ended
            with suppress(_native.Cancelled):  # which is not raised once the last micro-batch has begun
                self.context.prefill(0, self.tokens, self.one)
            ended = time.perf_counter()

        thread = Thread(target=work)
        thread.start()
        time.sleep(self.first_token_s * self.chance.uniform(0, 0.75))
        asked = time.perf_counter()
        self.context.cancel()
        thread.join()
        return {"s": max(0.0, ended - asked)}


def measure_prompt(path: Path, ids: Sequence[int], threads: int, rounds: int, progress: tqdm[Any]) -> dict[str, Row]:
    prompt = LongPrompt(path, ids, threads)
    labels = {"first_token": f"first token of {len(ids)}", "all_logits": f"all logits of {len(ids)} in one batch"}
    labels["all_logits_anew"] = "the same with their memory"
    sides = {"first_token": prompt.first_token}
    if prompt.all is not None:
        sides |= {"all_logits": prompt.all_logits, "all_logits_anew": prompt.all_logits_anew}
    sides |= {"cancel": prompt.cancel, "micro_batch": prompt.slowest_micro_batch}
    labels |= {"cancel": "cancel() until it returns", "micro_batch": f"slowest micro-batch of {MICRO_BATCH}"}
    turns = in_turns(sides, rounds, progress)
    return {side: Row(labels[side], "s", {NATIVE: [each["s"] for each in turns[side]]}) for side in sides}


def measure_memory(path: Path, ids: Sequence[int], threads: int) -> dict[str, int]:
    """Bytes that a process holds which does nothing else: a model is loaded, then `ids` are in its cache."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_hold, path, list(ids), threads).result()


def _hold(path: Path, ids: list[int], threads: int) -> dict[str, int]:
    assert "torch" not in sys.modules
    before = _resident_bytes()
    model = _native.Model(path, threads=threads)
    context = _native.Context(model, positions=len(ids))
    loaded, empty_cache = _resident_bytes(), context.cache_bytes()[0]
    context.prefill(0, np.array(ids, np.int32))
    kv_heads = sum(model.heads(layer)[1] for layer in range(model.layers))
    return {
        "process": before,
        "loaded": loaded,
        "loaded_cache": empty_cache,
        "filled": _resident_bytes(),
        "filled_cache": context.cache_bytes()[0],
        "positions": len(ids),
        "all_layers_f16_cache": len(ids) * kv_heads * model.head_dim * 2 * 2,  # keys and values, of 2 bytes
    }


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
