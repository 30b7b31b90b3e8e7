#!/usr/bin/env python3
"""How often `edgekit bench --vs --gate` is right on this machine, whatever else runs on it.

    python tests/side_by_side/gate.py [--rounds 10] [--reps N] [--gate 5%] [--work DIR] [--json FILE]

A is a random model, and B has eleven layers to its ten, which makes it about a tenth slower; how much slower, many
pairs tell first. Then A is compared with itself, in which any regression is a false alarm, and with B, which has to be
one, so many times each and in turns. Each comparison is a run of the command in a process of its own, with the static
runner (--device local). "inconclusive" is an honest answer on a machine that is too busy, and counts as neither right
nor wrong. The exit code is 1 where the gate was wrong. Ten rounds take about ten minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' own modules

from models_random import random_checkpoint
from sample_gguf import write_sample_gguf
from tqdm import tqdm

from edgekit.cli.bench_output import EXIT_CODES, REGRESSION
from edgekit.devices import host
from edgekit.models.errors import InputError

LAYERS = {"A": 10, "B": 11}
SIZES: dict[str, Any] = {"hidden": 1024, "ffn": 2816, "context": 1024, "tied": True, "dtype": "bfloat16"}
WORKLOAD = ("--prompt-tokens", "512", "--gen-tokens", "96")  # a third to half a second for each repetition
TRUE_PAIRS = 61
OUTCOMES = ("no regression", "inconclusive", "regression")
WRONG = {"A": "regression", "B": "no regression"}  # of A with which


def write_models(folder: Path) -> dict[str, Path]:
    """Both files, made anew where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, layers in LAYERS.items():
        files[name] = folder / f"{layers}-layers.gguf"
        if not files[name].exists():
            with tempfile.TemporaryDirectory(dir=folder) as made:
                checkpoint = random_checkpoint(Path(made) / "model", "llama", layers=layers, **SIZES)
                write_sample_gguf(files[name], "q4_0", checkpoint)
    return files


def compare(a: Path, b: Path, *options: str) -> dict[str, Any]:
    """What the command prints, with its exit code and how long it took."""
    command = ["bench", str(a), "--vs", str(b), "--device", "local", "--json", *WORKLOAD, *options]
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "edgekit", *command], capture_output=True, text=True, check=False)
    if done.returncode not in (*EXIT_CODES.values(), REGRESSION):
        raise InputError(done.stderr.strip().removeprefix("edgekit: error: "))
    found = json.loads(done.stdout)
    kept = {name: found[name] for name in ("outcome", "status", "reasons", "ratios")}
    return {**kept, "exit_code": done.returncode, "seconds": time.monotonic() - start}


def run(files: dict[str, Path], rounds: int, options: list[str]) -> dict[str, Any]:
    load_average = os.getloadavg()[0]
    with tqdm(total=2 * rounds + 1, desc="gate", unit="comparison", disable=None) as progress:
        true = compare(files["A"], files["B"], "--reps", str(TRUE_PAIRS))
        progress.update()
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
        for _ in range(rounds):
            for name, file in files.items():
                found[name].append(compare(files["A"], file, *options))
                progress.update()
    return {
        "cpu": host.cpu_model(),
        "options": [*WORKLOAD, *options],
        "layers": LAYERS,
        "true_ratios": true["ratios"],
        "counts": {
            name: {each: sum(one["outcome"] == each for one in many) for each in OUTCOMES}
            for name, many in found.items()
        },
        "load_average": load_average,
        "comparisons": found,
    }


def print_result(result: dict[str, Any]) -> None:
    for name in ("prefill_tps", "decode_tps"):
        ratio = result["true_ratios"][name]
        print(
            f"true B / A, {name}: {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}, {ratio['n']} pairs)"
        )
    print(
        f"\n{'':16}" + "".join(f"{outcome:>16}" for outcome in OUTCOMES) + f"{'decode B / A':>22}{'prefill B / A':>22}"
    )
    for name, counts in result["counts"].items():
        cells = "".join(f"{counts[outcome]:16}" for outcome in OUTCOMES)
        spans = []
        for figure in ("decode_tps", "prefill_tps"):
            medians = [one["ratios"][figure]["median"] for one in result["comparisons"][name]]
            spans.append(f"{min(medians):.3f} to {max(medians):.3f}")
        print(f"{'A with ' + name:16}{cells}" + "".join(f"{span:>22}" for span in spans))
    print(f"\nLoad average before: {result['load_average']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--reps", type=int, help="pairs of each comparison  [default: the command's]")
    parser.add_argument("--gate", default="5%")
    parser.add_argument("--work", type=Path, default=Path("build/gate"), help="where the models are made, and stay")
    parser.add_argument("--json", type=Path, help="write everything there too")
    arguments = parser.parse_args()
    options = ["--gate", arguments.gate, *(["--reps", str(arguments.reps)] if arguments.reps else [])]
    try:
        if arguments.rounds < 1:
            raise InputError(f"--rounds {arguments.rounds} is out of range: give 1 or more")
        result = run(write_models(arguments.work), arguments.rounds, options)
        print_result(result)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:  # InputError among them
        sys.exit(f"gate: {error}")
    sys.exit(any(result["counts"][name][wrong] for name, wrong in WRONG.items()))


if __name__ == "__main__":
    main()
