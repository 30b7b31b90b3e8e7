#!/usr/bin/env python3
"""What quantisation leaves of a model, judged by stock llama-perplexity, beside llama-quantize's own files.

    python tests/side_by_side/fidelity.py CHECKPOINT --tools LLAMA_BIN --calib CALIB --text TEXT --work DIR
        [--size 190MB=0.027 ...] [--like Q4_K_M=0.6 ...] [--peers Q5_K_M,Q6_K] [--only points,uniform]

LLAMA_BIN holds llama-perplexity, llama-imatrix and llama-quantize. The parts: **points**, edgekit's files of the sizes
given, or of a peer's tensor bytes (--like; by default Q4_K_M's), where a number after = is the KLD asked for, or the
share of the peer's; **ablation**, the first of these sizes with one more step of the method at a time; **uniform**, one
type for all matrices against llama-quantize --pure; **training**, --distil, --qat and prune. Statistics, the float32
file, its logits and the importance matrix (of the same calibration text) stay in DIR. Prints a table, verdicts and,
last, one JSON document. On the sample it takes minutes, on a model of 270 M parameters more than an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fidelity_parts import Findings, Point, ablation, like, points, training, uniform
from fidelity_table import SOURCES, table, verdicts
from judge import Bench, run
from tables import QUIET, Others

from edgekit.devices import host
from edgekit.models.errors import InputError

PARTS = ("points", "ablation", "uniform", "training")
LIKE, LIKE_SHARE = "Q4_K_M", 0.6


def marked(value: str, option: str) -> tuple[str, float | None]:
    """ "190MB=0.027" -> ("190MB", 0.027); without a mark, None."""
    name, separator, mark = value.partition("=")
    try:
        number = float(mark) if separator else None
    except ValueError:
        number = -1.0
    if not name or (number is not None and not number > 0):
        raise InputError(f"{option} {value}: write a name and, after =, a positive number")
    return name, number


def chosen_parts(only: str | None) -> tuple[str, ...]:
    """Those named, in the order of PARTS."""
    names = PARTS if only is None else tuple(name.strip() for name in only.split(","))
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise InputError(f"--only {only}: there is no part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in names)


def chosen_points(bench: Bench, sizes: list[str], likes: list[str]) -> list[Point]:
    """The sizes in the order of the options; without any, that of Q4_K_M's tensor bytes."""
    found = [Point(size, kld=kld) for size, kld in (marked(each, "--size") for each in sizes)]
    likes = likes or ([] if sizes else [LIKE])
    return found + [
        like(bench, peer, share or LIKE_SHARE) for peer, share in (marked(each, "--like") for each in likes)
    ]


def machine(bench: Bench, others: Others) -> dict[str, Any]:
    """What ran it, and what other programs took of it meanwhile."""
    judge = run(bench.tools / "llama-perplexity", "--version").splitlines()
    return {
        "cpu": host.cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "edgekit": version("edgekit"),
        "judge": next((line for line in judge if "version" in line), "llama-perplexity"),
        "load_average": others.load_average,
        "others_share": others.share(),
    }


def idle(facts: dict[str, Any]) -> list[str]:
    """A warning where others used the machine; KLs do not depend on it."""
    share = facts["others_share"]
    if share is None or share < QUIET:
        return []
    return [f"Other programs took {share:.0%} of the cores meanwhile: the times are not to be quoted."]


def measure(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole document."""
    parts, findings, others = chosen_parts(arguments.only), Findings(), Others()
    bench.prepare()
    sizes: list[Point] = []
    if {"points", "ablation"} & set(parts):
        sizes = chosen_points(bench, arguments.size or [], arguments.like or [])
    if "points" in parts:
        points(bench, findings, sizes, [name for name in arguments.peers.split(",") if name])
    if "ablation" in parts:
        ablation(bench, findings, arguments.ablate or [sizes[0].size])
    if "uniform" in parts:
        uniform(bench, findings)
    if "training" in parts:
        training(bench, findings)
    facts = machine(bench, others)
    for line in (*table(findings.rows), "", *SOURCES, *idle(facts), "", *verdicts(findings.verdicts)):
        print(line)
    return {
        "checkpoint": bench.checkpoint,
        "calibration": str(bench.calib),
        "text": str(bench.text),
        "chunks": bench.chunks,
        "seed": bench.seed,
        "machine": facts,
        "sources": SOURCES,
        "rows": findings.rows,
        "verdicts": [{**vars(verdict), "met": verdict.met} for verdict in findings.verdicts],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="the judge's; none of it in --calib")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", action="append", metavar="SIZE[=KLD]", help="may be repeated")
    parser.add_argument("--like", action="append", metavar="TYPE[=SHARE]", help="the share is 0.6 unless given")
    parser.add_argument("--peers", default="", metavar="TYPES", help="more rows of llama-quantize, with commas")
    parser.add_argument("--ablate", action="append", metavar="SIZE", help="other sizes for the ablation")
    parser.add_argument("--only", metavar="PARTS", help=f"of {','.join(PARTS)}")
    parser.add_argument("--chunks", type=int, default=12, help="of 512 tokens of the text")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tools, calib, text, work = (path.resolve() for path in (given.tools, given.calib, given.text, given.work))
    try:
        bench = Bench(given.checkpoint, tools, calib, text, work, given.chunks, given.seed)
        print(json.dumps(measure(bench, given)))
    except (ValueError, OSError) as error:  # InputError among them
        sys.exit(f"fidelity: {error}")


if __name__ == "__main__":
    main()
