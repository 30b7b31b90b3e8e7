#!/usr/bin/env python3
"""edgekit's ONNX folder beside the int4 model that ONNX Runtime's own tools make of the same checkpoint.

    python tests/side_by_side/onnx_builder.py CHECKPOINT --calib CALIB --text TEXT --work DIR
        [--algorithm k_quant_mixed] [--accuracy-level 4] [--threads 1] [--rounds 15] [--chunks 12] [--json FILE]

The peer is onnxruntime_genai's model builder; where that fails, ONNX Runtime's MatMulNBitsQuantizer on edgekit's graph
in float32. edgekit plans for the peer's bytes: those of the builder's graph and weights, those of the quantiser's
weights. Both are then judged on the same tokens against the checkpoint in float32, and timed in turns in this process,
as plain sessions with the same options: how the graphs compare, not the programs around them. The machine should do
nothing else meanwhile: what others took of it is said.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from judge import run_measured
from numpy.typing import NDArray
from onnx_graph import GraphSession, model_bytes, tensor_bytes
from onnx_peers import Peer, built, quantised
from onnx_table import BYTES, EDGEKIT, PEER, lines
from tables import Others
from tqdm import tqdm
from turns import Figures, Row, in_turns, row, seconds

from edgekit.devices import host
from edgekit.evaluation import text_windows
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.divergence import WINDOW, TokenDivergences, first_scored
from edgekit.models.errors import InputError
from edgekit.models.forward import load_model, reference_logits
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.plan_file import read_plan
from edgekit.runtimes.session import choose_threads

PROMPT, GENERATED = 512, 64  # tokens
AS_FAST = 0.95  # of the peer's speed, asked for


@dataclass(frozen=True)
class Bench:
    """A checkpoint, the texts, and a folder that keeps statistics."""

    checkpoint: str
    calib: Path
    text: Path
    work: Path
    chunks: int
    rounds: int
    threads: int
    accuracy_level: int
    algorithm: str
    seed: int

    @cached_property
    def windows(self) -> NDArray[np.int64]:
        """(W, length)"""
        checkpoint = open_checkpoint(self.checkpoint)
        length = min(WINDOW, checkpoint.spec.context)
        return text_windows(load_tokenizer(checkpoint), self.text, length, self.chunks)

    def peer(self) -> Peer:
        try:
            return built(self.checkpoint, self.work, self.accuracy_level, self.algorithm)
        except InputError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if "Error" in line), "")
            print(f"onnx_builder: the model builder fails: {reason}", file=sys.stderr)
        return quantised(self.exported("floats", "--formats", "f32"), self.work, self.accuracy_level)

    def exported(self, name: str, *budget: object) -> Path:
        """edgekit's folder of that name, planned for a budget."""
        plan, folder = self.work / f"{name}.json", self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        edgekit, common = (sys.executable, "-m", "edgekit"), ("--calib", self.calib, "--work", self.work / "statistics")
        options = ("--for", "onnx", "--seed", self.seed, *budget, *common, "-o", plan, "--json")
        run_measured(*edgekit, "plan", self.checkpoint, *options)
        options = ("--format", "onnx", "--accuracy-level", self.accuracy_level, *common, "-o", folder, "--json")
        run_measured(*edgekit, "export", self.checkpoint, "--plan", plan, *options)
        return folder

    def session(self, folder: Path, context: int) -> GraphSession:
        return GraphSession(folder, open_checkpoint(self.checkpoint).spec.head_dim, context, self.threads)


def judge(bench: Bench, folders: dict[str, Path]) -> tuple[dict[str, Any], dict[str, float]]:
    """What each side's logits are to the checkpoint's, and the difference of their KLDs token by token."""
    model, length = load_model(open_checkpoint(bench.checkpoint)), bench.windows.shape[1]
    first = first_scored(length)
    sessions = {side: bench.session(folder, length) for side, folder in folders.items()}
    found = {side: TokenDivergences() for side in folders}
    for window in tqdm(bench.windows, desc="judge", unit="window", disable=None):
        expected = reference_logits(model, window, first)
        for side, session in sessions.items():
            session.reset()
            found[side].add_window(expected, session.run(window, length - first)[first - length :], window)
    ours, theirs = (np.concatenate(found[side].kld) for side in (EDGEKIT, PEER))
    paired = {"mean": float(np.mean(ours - theirs)), "stderr": float(np.std(ours - theirs) / np.sqrt(len(ours)))}
    return {side: asdict(divergences.result()) for side, divergences in found.items()}, paired


class Speeds:
    """The sides' sessions at the same work: a prompt, the tokens after it."""

    def __init__(self, bench: Bench, ours: Path, peer: Peer) -> None:
        tokens = np.concatenate(bench.windows)
        context = min(PROMPT + GENERATED, open_checkpoint(bench.checkpoint).spec.context, len(tokens))
        self.prompt, self.next = tokens[: context - GENERATED], tokens[context - GENERATED : context]
        if not len(self.prompt):
            raise InputError(f"a context of {context} is too short to time: {GENERATED + 1} tokens are needed")
        self.sessions = {EDGEKIT: bench.session(ours, context), PEER: bench.session(peer.folder, context)}
        self.two_graphs, self.one_logit = peer.last_logits != peer.folder, dict(self.sessions)
        if self.two_graphs:
            self.one_logit[PEER] = bench.session(peer.last_logits, context)

    def measure(self, rounds: int) -> dict[str, Row]:
        with tqdm(total=2 * rounds + 2, desc="side by side", unit="turn", disable=None) as progress:
            sides = {side: lambda side=side: self._turn(side) for side in self.sessions}
            in_turns(sides, 1, progress)  # what is slower the first time
            turns = in_turns(sides, rounds, progress)
        length = len(self.prompt)
        rows = {
            "prefill": row(f"prefill of {length}, one logit", "tok/s", "prefill", turns),
            "decode": row(f"decode after {length}", "tok/s", "decode", turns),
        }
        if self.two_graphs:
            rows["prefill_all"] = row(f"prefill of {length}, all logits", "tok/s", "prefill_all", turns)
        return rows

    def _turn(self, side: str) -> Figures:
        found = {"prefill": self._prefill(self.one_logit[side], 1)}
        session = self.sessions[side]
        if self.two_graphs:
            found["prefill_all"] = self._prefill(session, len(self.prompt))
        return {**found, "decode": GENERATED / seconds(lambda: [session.run(token, 1) for token in self.next[:, None]])}

    def _prefill(self, session: GraphSession, logits: int) -> float:
        session.reset()
        session.run(self.prompt[:1], 1)  # its weights have been out of the processor's caches while others ran
        session.reset()
        return len(self.prompt) / seconds(session.run, self.prompt, logits)


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """What is asked for, and whether it is so."""
    sides, rows = result["sides"], result["rows"]
    ours, theirs = sides[EDGEKIT], sides[PEER]
    paired = result["kld_difference"]
    return {
        f"no more {BYTES[result['counted']]}": ours[result["counted"]] <= theirs[result["counted"]],
        "lower KLD, by more than twice its error": paired["mean"] < -2 * paired["stderr"],
        **{f"{each['label']}: {AS_FAST} x the peer's speed": each["ratio"] >= AS_FAST for each in rows.values()},
    }


def measure(bench: Bench) -> dict[str, Any]:
    """The whole document."""
    for path in (bench.calib, bench.text):
        if not path.is_file():
            raise InputError(f"{path} is not there")
    bench.work.mkdir(parents=True, exist_ok=True)
    peer = bench.peer()
    folders = {EDGEKIT: bench.exported("edgekit", *peer.budget), PEER: peer.folder}
    figures, paired = judge(bench, folders)
    others = Others()
    rows = Speeds(bench, folders[EDGEKIT], peer).measure(bench.rounds)
    result = {
        "checkpoint": bench.checkpoint,
        "peer": peer.made_by,
        "note": peer.note,
        "counted": peer.counted,
        "threads": bench.threads,
        "rounds": bench.rounds,
        "accuracy_level": bench.accuracy_level,
        "chunks": len(bench.windows),
        "cpu": host.cpu_model(),
        "isa": host.isa(),
        "load_average": others.load_average,
        "others_share": others.share(),
        "versions": {name: version(name) for name in ("edgekit", "onnx", "onnxruntime", "onnxruntime-genai")},
        "types": read_plan(bench.work / "edgekit.json").formats,
        "sides": {
            side: {"bytes": model_bytes(folder), "tensor_bytes": tensor_bytes(folder), **figures[side]}
            for side, folder in folders.items()
        },
        "kld_difference": paired,
        "rows": {
            key: {"label": each.label, "unit": each.unit, "samples": each.samples, "ratio": each.ratios(EDGEKIT)[PEER]}
            for key, each in rows.items()
        },
    }
    return result | {"verdicts": verdicts(result)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a Hugging Face folder")
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="the judge's; none of it in --calib")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--algorithm", default="default", help="the builder's algo_config")
    parser.add_argument("--accuracy-level", type=int, default=4, choices=(0, 1, 4), help="of both sides")
    parser.add_argument("--threads", type=int, help="of both sides; one for each core, unless given")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=12, help="of 512 tokens of the text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all samples there too")
    given = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)
    try:
        if given.rounds < 1:
            raise InputError(f"--rounds {given.rounds} is out of range: give 1 or more")
        settings = {key: value for key, value in vars(given).items() if key != "json"}
        result = measure(Bench(**settings | {"threads": choose_threads(given.threads)}))
        print("\n".join(lines(result)))
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:  # InputError among them
        sys.exit(f"onnx_builder: {error}")


if __name__ == "__main__":
    main()
