#!/usr/bin/env python3
"""One GGUF in edgekit's own runtime and in llama.cpp, measured in turns, beside how fast the machine reads its memory.

    python tests/side_by_side/native_speed.py MODEL [--rounds 5] [--threads N] [--json FILE] [--llama-bench PROGRAM]

Both run in this process with the same token ids, depths, cache types and numbers of threads, A B A B. llama-bench takes
its turns too, in processes of its own; LLAMA_BENCH in the environment names it as the option does. The machine should
do nothing else meanwhile: what other programs took of it is said.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from native_alone import PARTS, measure_memory, measure_prompt
from tables import Others, print_result
from tqdm import tqdm
from turns import LLAMA, LLAMA_BENCH, MEMORY, NATIVE, Figures, Row, Turns, in_turns, row, seconds

from edgekit import _native
from edgekit.devices import host
from edgekit.devices.measure import prompt_ids
from edgekit.models.errors import InputError
from edgekit.runtimes import CacheTypes, Session, load, thread_count

PROMPT, GENERATED, DEPTH, CACHED = 512, 32, 4096, 8192  # tokens
PASSES = 4  # over memory, in each round


@dataclass(frozen=True)
class Setting:
    path: Path
    threads: int
    rounds: int
    llama_bench: str | None
    ids: list[int]  # the prompt: as many as are ever needed, or as the model's context holds
    decode_bytes: int  # of weights, read for every token

    @property
    def prompt(self) -> int:
        return min(PROMPT, len(self.ids) - GENERATED)

    @property
    def depth(self) -> int:
        """Where decoding deep in the context begins: all rounds of it have to fit."""
        return min(DEPTH, len(self.ids) - self.rounds * GENERATED)


def look_at(path: Path, threads: int | None, rounds: int, llama_bench: str | None) -> Setting:
    with closing(load(path, runtime=LLAMA)) as session, closing(_native.Model(path)) as model:
        least = (rounds + 1) * GENERATED
        if model.context < least:
            raise InputError(f"{path} has a context of {model.context} tokens: {least} are needed for {rounds} rounds")
        ids = prompt_ids(session, min(CACHED, model.context))
        return Setting(path, thread_count(NATIVE, threads), rounds, llama_bench, ids, model.decode_bytes)


def load_once(setting: Setting, runtime: str) -> Figures:
    start = time.perf_counter()
    with closing(load(setting.path, runtime=runtime, threads=setting.threads)):
        return {"load": time.perf_counter() - start}


def decode(setting: Setting, session: Session) -> Figures:
    ids = setting.ids[:GENERATED]
    return {"decode": GENERATED / seconds(lambda: [session.decode(token) for token in ids])}


def prefill_then_decode(setting: Setting, session: Session) -> Figures:
    session.reset()
    prefill_s = seconds(session.prefill, setting.ids[: setting.prompt])
    session.reset()
    return {"prefill": setting.prompt / prefill_s, **decode(setting, session)}


def read_memory(setting: Setting) -> Figures:
    passes = host.bandwidth_passes(PASSES, setting.threads)
    return {"read": median(passes) / 1e9, "read_best": max(passes) / 1e9}


def run_llama_bench(setting: Setting, *options: object) -> Figures:
    command = [setting.llama_bench, "-m", setting.path, "-t", setting.threads, "-r", 1, "-o", "json", *options]
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        tests = json.loads(done.stdout)
        return {"decode" if test["n_gen"] else "prefill": float(test["avg_ts"]) for test in tests}
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{setting.llama_bench} does not do what llama-bench does: {error}") from error


def compare(
    setting: Setting,
    cache: str,
    depth: int,
    work: Callable[[Setting, Session], Figures],
    options: tuple[object, ...],
    progress: tqdm[Any],
) -> Turns:
    """Both runtimes at that work from that depth, llama-bench with these options, and reading memory."""
    room = max(setting.prompt, depth + setting.rounds * GENERATED)
    opened = partial(load, setting.path, context=room, threads=setting.threads, cache=CacheTypes.parse(cache))
    with closing(opened(runtime=NATIVE)) as ours, closing(opened(runtime=LLAMA)) as theirs:
        for session in (ours, theirs):
            session.prefill(setting.ids[: depth or setting.prompt])  # and what is slower the first time
        sides = {NATIVE: partial(work, setting, ours), LLAMA: partial(work, setting, theirs)}
        if setting.llama_bench:
            sides[LLAMA_BENCH] = partial(run_llama_bench, setting, *options)
        return in_turns(sides | {MEMORY: partial(read_memory, setting)}, setting.rounds, progress)


def measure(setting: Setting, progress: tqdm[Any]) -> dict[str, Row]:
    loads = in_turns({side: partial(load_once, setting, side) for side in (NATIVE, LLAMA)}, setting.rounds, progress)
    options: tuple[object, ...] = ("-p", setting.prompt, "-n", GENERATED)
    start = compare(setting, "f16", 0, prefill_then_decode, options, progress)
    options = ("-p", 0, "-n", GENERATED, "-d", setting.depth, "-ctk", "q8_0", "-ctv", "q8_0", "-fa", 1)
    deep = compare(setting, "q8_0", setting.depth, decode, options, progress)
    return {
        "load": row("load", "s", "load", loads),
        "prefill": row(f"prefill of {setting.prompt}", "tok/s", "prefill", start),
        "decode": row("decode from depth 0", "tok/s", "decode", start),
        "decode_deep": row(f"decode from depth {setting.depth}, q8_0 cache", "tok/s", "decode", deep),
        "read": row("memory read: median of a round", "GB/s", "read", start),
        "read_best": row("best of a round", "GB/s", "read_best", start),
        **measure_prompt(setting.path, setting.ids[:DEPTH], setting.threads, setting.rounds, progress),
    }


def shares_of_bandwidth(setting: Setting, rows: dict[str, Row]) -> dict[str, dict[str, float]]:
    """What decoding from depth 0 reads, of what its round's reads of memory reach, and of the best of them all."""
    reads, best = rows["read"].samples[MEMORY], max(rows["read_best"].samples[MEMORY])
    shares = {}
    for side, speeds in rows["decode"].samples.items():
        rates = [speed * setting.decode_bytes / 1e9 for speed in speeds]
        paired = median(rate / read for rate, read in zip(rates, reads, strict=True))
        shares[side] = {"gb_per_s": median(rates), "of_median": paired, "of_best": median(rates) / best}
    return shares


def run(setting: Setting) -> dict[str, Any]:
    others = Others()
    turns = setting.rounds * (2 + 2 * (3 + bool(setting.llama_bench)) + PARTS)
    with tqdm(total=turns, desc="side by side", unit="turn", disable=None) as progress:
        rows = measure(setting, progress)
    return {
        "model": str(setting.path),
        "file_bytes": setting.path.stat().st_size,
        "decode_bytes": setting.decode_bytes,
        "threads": setting.threads,
        "rounds": setting.rounds,
        "cpu": host.cpu_model(),
        "isa": host.isa(),
        "load_average": others.load_average,
        "others_share": others.share(),
        "versions": {name: version(name) for name in ("edgekit", "llama-cpp-python")},
        "rows": {
            key: {"label": each.label, "unit": each.unit, "samples": each.samples, "ratios": each.ratios()}
            for key, each in rows.items()
        },
        "bandwidth": shares_of_bandwidth(setting, rows),
        "memory": measure_memory(setting.path, setting.ids, setting.threads),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="one for each big core, unless given")
    parser.add_argument("--json", type=Path, help="write all samples there too")
    parser.add_argument("--llama-bench", metavar="PROGRAM", default=os.environ.get("LLAMA_BENCH"))
    arguments = parser.parse_args()
    try:
        if arguments.rounds < 1:
            raise InputError(f"--rounds {arguments.rounds} is out of range: give 1 or more")
        result = run(look_at(arguments.model, arguments.threads, arguments.rounds, arguments.llama_bench or None))
        print_result(result)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:  # InputError among them
        sys.exit(f"native_speed: {error}")


if __name__ == "__main__":
    main()
