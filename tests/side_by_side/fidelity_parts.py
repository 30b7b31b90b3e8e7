"""The parts of the fidelity bench: which files are made of a checkpoint, and what is asked of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
from judge import Bench, Ran, tensor_bytes

from edgekit.ablation import steps
from edgekit.calibrating import Calibration, open_source
from edgekit.clock import Clock
from edgekit.export.gguf import write_gguf
from edgekit.following import planned_from_file

UNIFORM = ("q4_0", "iq4_nl")
QAT_STEPS = 40
# What is asked for: shares of the KLD of what each is compared with, and of an accuracy and of bytes.
UNIFORM_SHARE, DISTILLED_SHARE, PRUNED_SHARE = 0.6, 0.9, 0.7
TOP1_LOSS, SHARE_OF_F16, SHARE_OF_F32 = 0.01, 0.5, 0.25

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What was asked, at most this much, and what was found."""

    what: str
    at_most: float
    value: float

    @property
    def met(self) -> bool:
        return self.value <= self.at_most


@dataclass(frozen=True)
class Point:
    """A file size in bytes or with a unit; the KLD asked for there, or the peer whose tensor bytes it has."""

    size: str
    kld: float | None = None
    peer: str | None = None
    share: float = 0.0  # of the peer's KLD, asked for


@dataclass
class Findings:
    """Rows and verdicts in the order in which they were found."""

    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def row(self, part: str, made_by: str, **figures: Any) -> Row:
        self.rows.append({"part": part, "made_by": made_by, **figures})
        print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)
        return self.rows[-1]

    def ask(self, what: str, value: float, at_most: float) -> None:
        self.verdicts.append(Verdict(what, at_most, value))


def like(bench: Bench, peer: str, share: float) -> Point:
    """The size of edgekit's file whose tensors may take what the peer's take."""
    beside = bench.base.stat().st_size - tensor_bytes(bench.base)
    return Point(str(beside + tensor_bytes(bench.peer(peer))), peer=peer, share=share)


def points(bench: Bench, findings: Findings, sizes: list[Point], peers: list[str]) -> None:
    """edgekit's files of those sizes and llama-quantize's of those types."""
    theirs = {peer: bench.judged(bench.peer(peer)) for peer in dict.fromkeys([*peers, *_peers(sizes)])}
    for peer, judged in theirs.items():
        findings.row("points", f"llama-quantize {peer}, imatrix", **judged)
    for point in sizes:
        kept = bench.statistics.exists()
        path, ran = bench.calibrated(f"edgekit-{point.size}.gguf", "--size", point.size)
        row = findings.row(
            "points", f"edgekit --size {point.size}", **bench.judged(path), **_run(ran), statistics_kept=kept
        )
        if point.kld is not None:
            findings.ask(f"KLD of --size {point.size}", row["kld_mean"], point.kld)
        if point.peer is not None:
            share = row["kld_mean"] / theirs[point.peer]["kld_mean"]
            findings.ask(f"{point.peer}'s tensor bytes: share of its KLD", share, point.share)


def ablation(bench: Bench, findings: Findings, sizes: list[str]) -> None:
    """The files of one plan for each size, with one more step at a time."""
    for size in sizes:
        plan = bench.planned(f"plan-{size}.json", "--size", size)
        part, first = f"ablation at {size}", 0.0
        for name, path in _step_files(bench, plan):
            row = findings.row(part, name, **bench.judged(path))
            first = first or row["kld_mean"]
            row["share_of_first"] = row["kld_mean"] / first
        path, ran = bench.followed(plan, "--distil")
        row = findings.row(part, "+ distillation", **bench.judged(path), **_run(ran))
        row["share_of_first"] = row["kld_mean"] / first


def uniform(bench: Bench, findings: Findings) -> None:
    """One type for every matrix, the embedding too: rounding alone makes the difference."""
    for name in UNIFORM:
        path, ran = bench.calibrated(f"edgekit-{name}.gguf", "--formats", name, "--no-report")
        ours = findings.row("uniform", f"edgekit --formats {name}", **bench.judged(path), **_run(ran))
        judged = bench.judged(bench.peer(name.upper(), "--pure"))
        theirs = findings.row("uniform", f"llama-quantize --pure {name.upper()}, imatrix", **judged)
        same = "" if ours["types"] == theirs["types"] else ", of other types: see the rows"
        share = ours["kld_mean"] / theirs["kld_mean"]
        findings.ask(f"{name} everywhere: share of the KLD of llama-quantize --pure{same}", share, UNIFORM_SHARE)


def training(bench: Bench, findings: Findings) -> None:
    """Distillation at 4.5 bits, quantisation-aware training at half of 16 bits, half of the weights pruned."""
    _distillation(bench, findings)
    _quantisation_aware(bench, findings)
    _pruning(bench, findings)


def _distillation(bench: Bench, findings: Findings) -> None:
    klds, plan = [], bench.planned("plan-4.5-bits.json", "--bpw", 4.5)
    for options in ((), ("--distil",)):
        path, ran = bench.followed(plan, *options)
        name = " ".join(("edgekit --bpw 4.5", *options))
        klds.append(findings.row("training", name, **bench.judged(path), **_run(ran))["kld_mean"])
    findings.ask("--distil at 4.5 bits per weight: share of the KLD without", klds[1] / klds[0], DISTILLED_SHARE)


def _quantisation_aware(bench: Bench, findings: Findings) -> None:
    """Accuracies are those of edgekit eval on the judge's text: llama-perplexity prints none."""
    full = bench.base.stat().st_size
    halves = full - sum(int(t.n_bytes) for t in gguf.GGUFReader(bench.base).tensors if len(t.shape) > 1) // 2
    size = str(min(int(SHARE_OF_F16 * halves), int(SHARE_OF_F32 * full)))
    plan, row = bench.planned("plan-half.json", "--size", size), Row()
    for options in ((), ("--qat", QAT_STEPS)):
        name = " ".join(map(str, ("edgekit --size", size, *options)))
        path, ran = bench.followed(plan, *options)
        against = ("--reference", bench.checkpoint, "--text", bench.text, "--chunks", bench.chunks)
        found = bench.edgekit("eval", path, *against).document
        accuracy = {key: found[key] for key in ("top1", "top1_reference")}
        row = findings.row("training", name, **bench.judged(path), **_run(ran), **accuracy)
    findings.ask(f"--qat {QAT_STEPS}: loss of next-token accuracy", row["top1_reference"] - row["top1"], TOP1_LOSS)
    findings.ask(f"--qat {QAT_STEPS}: share of the 16-bit file's bytes", row["bytes"] / halves, SHARE_OF_F16)
    findings.ask(f"--qat {QAT_STEPS}: share of the float32 file's bytes", row["bytes"] / full, SHARE_OF_F32)


def _pruning(bench: Bench, findings: Findings) -> None:
    klds = []
    for score in ("sparsegpt", "magnitude"):
        folder = bench.work / f"pruned-{score}"
        common = ("--sparsity", 0.5, "--score", score, "--calib", bench.calib, "--seed", bench.seed)
        shutil.rmtree(folder, ignore_errors=True)  # of a run before
        pruned = bench.edgekit("prune", bench.checkpoint, "-o", folder, *common).document
        judged = bench.judged(bench.plain(f"pruned-{score}.gguf", folder))
        compressed = {key: pruned[key] for key in ("stored", "four_bit")}
        klds.append(findings.row("training", f"prune 50 %, {score}, as f32", **judged, **compressed)["kld_mean"])
    findings.ask("prune 50 %: share of the KLD by magnitude", klds[0] / klds[1], PRUNED_SHARE)


def _step_files(bench: Bench, plan: Path) -> Iterator[tuple[str, Path]]:
    """The steps that have no option of their own, written with the package."""
    source = open_source(bench.checkpoint, None, Clock())
    planned = planned_from_file(plan, Calibration(source, (), bench.seed, bench.statistics, kept=True), Clock())
    for number, step in enumerate(steps(planned.plan)):
        path = bench.work / f"{plan.stem}-step-{number}.gguf"
        blocks = planned.rounded.stream(step.formats, refinement=step.refinement)
        write_gguf(source.checkpoint, source.tokenizer, blocks, step.formats, path)
        yield f"{step.name}: {step.what}", path


def _run(ran: Ran) -> Row:
    """What edgekit says of its own run; its measured KL is of dequantised weights on held-out calibration text."""
    kls = {key: ran.document[key] for key in ("kld_predicted", "kld_measured")}
    seconds, stages = round(ran.seconds, 1), ran.document["seconds"]
    return {"seconds": seconds, "peak_rss_bytes": ran.peak_rss_bytes, "edgekit": kls, "stages": stages}


def _peers(sizes: list[Point]) -> list[str]:
    return [point.peer for point in sizes if point.peer is not None]
