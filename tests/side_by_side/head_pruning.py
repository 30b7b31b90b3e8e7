"""What head pruning leaves of a checkpoint, step by step, judged by `edgekit eval` on text that it never saw.

    python tests/side_by_side/head_pruning.py CHECKPOINT --calib CALIB --text TEXT --work DIR
        [--heads 0.3] [--prune-kv-groups] [--uniform] [--ffn 0.1] [--recover 300] [--scores gates,magnitude]
        [--chunks 40]

For each score: the model as it was cut, nothing made up for, and the folder that `edgekit prune` leaves, both as Q8_0
files, in stock llama.cpp where it has the graph and in the native runtime elsewhere; the unpruned model beside them.
Recovery is for the first score; the others, for comparison, are repaired alone.
Folders that are in DIR already are judged again and not made again. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit.evaluation import evaluate
from edgekit.export.gguf import write_gguf
from edgekit.head_pruning import prune_heads
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.divergence import WINDOW
from edgekit.models.tokenizer import load_tokenizer
from edgekit.pruned_heads import HeadOptions, structure_of
from edgekit.pruning_file import read_pruning
from edgekit.quant.candidates import fallback
from edgekit.quant.cutting import cut
from edgekit.quant.plan import matrices

FORMAT = "q8_0"
MARK = 0.012  # of next-token accuracy, relative

Row = dict[str, Any]


def judged(name: str, checkpoint: Checkpoint, given: argparse.Namespace) -> Row:
    """The checkpoint's Q8_0 file against the unpruned checkpoint, in float32."""
    path = given.work / "judged.gguf"
    formats = {tensor.name: fallback(FORMAT, tensor.shape[1]) for tensor in matrices(checkpoint.tensors)}
    blocks = ((tensor, format.encode(checkpoint.read(tensor), None)) for tensor, format in formats.items())
    names = {tensor: format.name for tensor, format in formats.items()}
    write_gguf(checkpoint, load_tokenizer(checkpoint), blocks, names, path)
    runtime = "llama.cpp" if checkpoint.spec.runs_in_llama_cpp else "native"
    context = min(WINDOW, checkpoint.spec.context)
    found = evaluate(
        path, reference=given.checkpoint, text=given.text, runtime=runtime, chunks=given.chunks, context=context
    )
    change = found.top1 / found.top1_reference - 1 if found.top1_reference else 0.0
    row = {"made_by": name, **asdict(found), "top1_change": change}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def rows(given: argparse.Namespace) -> list[Row]:
    """The unpruned model, and for each score what was cut and what was won back."""
    whole = open_checkpoint(given.checkpoint)
    found = [judged("unpruned", whole, given)]
    for number, score in enumerate(given.scores.split(",")):
        steps = 0 if number else given.recover
        options = HeadOptions(given.heads, given.prune_kv_groups, given.uniform, given.ffn, score, steps)
        folder = given.work / score
        if not folder.exists():
            prune_heads(given.checkpoint, folder, options, calib=[given.calib], work=given.work / "state")
        document = dict(read_pruning(folder))
        found.append(judged(f"{score}, cut", cut(whole, structure_of(document, whole.spec)), given))
        found.append(judged(f"{score}, made up for", open_checkpoint(folder), given))
        found[-1]["pruning"] = {key: document[key] for key in ("removed", "held_out", "files")}
    return found


def table(found: list[Row]) -> list[str]:
    """The rows as lines."""
    lines = [f"{'':24} {'bytes':>12} {'KLD':>9} {'ppl':>9} {'top-1':>8} {'relative':>9}  runtime"]
    for row in found:
        figures = f"{row['bytes']:12,} {row['kld_mean']:9.5f} {row['ppl']:9.3f} {row['top1']:8.2%}"
        lines.append(f"{row['made_by']:24} {figures} {100 * row['top1_change']:+8.2f}%  {row['runtime']}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="the judge's; none of it in --calib")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--heads", type=float)
    parser.add_argument("--prune-kv-groups", action="store_true")
    parser.add_argument("--uniform", action="store_true")
    parser.add_argument("--ffn", type=float)
    parser.add_argument("--recover", type=int, default=0)
    parser.add_argument("--scores", default="gates,magnitude")
    parser.add_argument("--chunks", type=int, help="of 512 tokens of the text; all unless given")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        found = rows(given)
    except (ValueError, OSError) as error:  # InputError among them
        sys.exit(f"head_pruning: {error}")
    last = next(row for row in reversed(found) if row["made_by"] == f"{given.scores.split(',')[0]}, made up for")
    verdict = "met" if last["top1_change"] > -MARK else "MISSED"
    for line in (*table(found), f"loss of next-token accuracy under {MARK:.1%}: {verdict}"):
        print(line)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
