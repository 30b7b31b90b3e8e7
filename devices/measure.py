"""One repetition of the benchmark's workload; runs in the benchmark and, for memory, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.devices.result import Sample
from edgekit.runtimes import CacheTypes, Session, load


def prompt_ids(session: Session, count: int) -> list[int]:
    """The workload's token ids, the same on every run and device: BOS where there is one, then spread over the ids.

    Multiplicative hashing (Knuth) of the position: a long walk through the vocabulary without an end token.
    """
    ids = [] if session.bos is None else [session.bos]
    position = 1
    while len(ids) < count:
        token = position * 2654435761 % 2**32 * session.vocab >> 32
        position += 1
        if token not in session.end_tokens:
            ids.append(token)
    return ids[:count]


def measure(
    model: Path, runtime: str, prompt_tokens: int, gen_tokens: int, threads: int | None, cache: CacheTypes | None = None
) -> Sample:
    """Load, prefill and decode once, greedily and past end tokens, on the monotonic clock."""
    clock = time.perf_counter
    start = clock()
    session = load(model, runtime=runtime, context=prompt_tokens + gen_tokens, threads=threads, cache=cache)
    try:
        _ = session.bos  # opens the tokenizer, which some runtimes put off until it is asked for
        load_s = clock() - start
        prompt = prompt_ids(session, prompt_tokens)
        start = clock()
        logits = session.prefill(prompt)
        prefill_s = clock() - start
        tokens = [int(logits.argmax())]
        times = [clock()]
        for _ in range(gen_tokens - 1):
            tokens.append(int(session.decode(tokens[-1]).argmax()))
            times.append(clock())
    finally:
        session.close()
    return _sample(load_s, prefill_s, prompt_tokens, start, times, tokens)


def _sample(
    load_s: float, prefill_s: float, prompt_tokens: int, start: float, times: Sequence[float], tokens: Sequence[int]
) -> Sample:
    decode_s = times[-1] - times[0]
    return Sample(
        load_s=load_s,
        ttft_s=times[0] - start,
        prefill_tps=prompt_tokens / prefill_s if prefill_s > 0 else float("nan"),
        decode_tps=(len(times) - 1) / decode_s if decode_s > 0 else float("nan"),
        inter_token_s=tuple(float(step) for step in np.diff(times)),
        output_sha256=hashlib.sha256(np.asarray(tokens, "<i4").tobytes()).hexdigest(),
    )


def peak_bytes() -> int | None:
    """The largest resident set that this process has had; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        # VmHWM belongs to the program image; getrusage's figure would include the parent from before exec.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main() -> None:
    """`python -m edgekit.devices.measure MODEL RUNTIME PROMPT GEN THREADS CACHE`: run once, print memory as JSON."""
    model, runtime, prompt, gen, threads, types = sys.argv[1:]
    baseline = peak_bytes()
    cache = CacheTypes.parse(types) if types else None
    measure(Path(model), runtime, int(prompt), int(gen), int(threads) or None, cache)
    sys.stdout.write(json.dumps({"baseline_bytes": baseline, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
