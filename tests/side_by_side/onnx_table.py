"""What onnx_builder prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tables import cell, conditions

EDGEKIT, PEER = "edgekit", "peer"
BYTES = {"bytes": "bytes of graph and weights", "tensor_bytes": "bytes of weights and tables"}
WIDTHS = (36, 28, 28, 8)


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The table, what it is of, and the verdicts."""
    yield f"\n{result['checkpoint']}; ONNX Runtime {result['versions']['onnxruntime']}"
    yield f"{result['threads']} threads of {result['cpu']}, {' '.join(result['isa'])}"
    yield f"peer: {result['note']}; both at accuracy level {result['accuracy_level']}"
    types = Counter(result["types"].values())
    yield f"edgekit: {', '.join(f'{count} x {name}' for name, count in types.most_common())}"
    yield f"Speeds: median (least to most) of {result['rounds']} rounds in turns; ratio: median of the rounds' own\n"
    yield _line("", EDGEKIT, result["peer"], "ratio")
    ours, theirs = (result["sides"][side] for side in (EDGEKIT, PEER))
    for key, what in BYTES.items():
        yield _line(what, *(f"{side[key]:,}" for side in (ours, theirs)), _ratio(ours[key] / theirs[key]))
    klds = (f"{side['kld_mean']:.5f} ± {side['kld_stderr']:.5f}" for side in (ours, theirs))
    yield _line("KLD, nats per token", *klds, _ratio(ours["kld_mean"] / theirs["kld_mean"]))
    yield _line("KLD, 99.9 % of tokens", *(f"{side['kld_p999']:.4f}" for side in (ours, theirs)))
    yield _line("same most likely token", *(f"{side['same_top1']:.2%}" for side in (ours, theirs)))
    for each in result["rows"].values():
        cells = (cell(each["samples"][side]) for side in (EDGEKIT, PEER))
        yield _line(f"{each['label']}, {each['unit']}", *cells, _ratio(each["ratio"]))
    paired = result["kld_difference"]
    difference = f"{paired['mean']:.5f} ± {paired['stderr']:.5f}"
    yield f"\nDifference of the KLDs, paired: {difference} over {ours['tokens']:,} tokens"
    yield from conditions(result)
    yield ""
    yield from (f"{what}: {'met' if met else 'MISSED'}" for what, met in result["verdicts"].items())


def _line(*cells: str) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)).rstrip()


def _ratio(value: float) -> str:
    return f"{value:.3f} x"
