"""What native_speed prints, and what other programs did to it."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

from turns import LLAMA, LLAMA_BENCH, MEMORY, NATIVE

from edgekit.figures import bytes_text

QUIET = 0.03  # of the cores' time, taken by other programs


class Others:
    """The other programs of this machine, from now on."""

    def __init__(self) -> None:
        self.load_average = os.getloadavg()[0]
        self._start, self._before = time.monotonic(), self._busy_s()

    @staticmethod
    def _busy_s() -> float:
        """Seconds of all cores that others have had; NaN where the system does not tell. No child may be running."""
        path = Path("/proc/stat")
        if not path.is_file():
            return math.nan
        user, nice, system, _idle, _wait, *rest = map(int, path.read_text().split(None, 9)[1:9])  # interrupts, stolen
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])

    def share(self) -> float | None:
        """Of the cores' time."""
        share = (self._busy_s() - self._before) / (time.monotonic() - self._start) / (os.cpu_count() or 1)
        return None if math.isnan(share) else max(0.0, share)


def print_result(result: dict[str, Any]) -> None:
    rows, sides = result["rows"], [NATIVE, LLAMA, LLAMA_BENCH]
    sides = [side for side in sides if side in rows["decode"]["samples"]]
    print(f"\n{result['model']}: {bytes_text(result['file_bytes'])}; {result['threads']} threads of {result['cpu']}")
    print(f"Median (least to most) of {result['rounds']} rounds in turns; ratio: median of the rounds' own\n")
    print(f"{'':40}{'':7}" + "".join(f"{side:27}" for side in sides) + "native is faster")
    for each in rows.values():
        if NATIVE not in each["samples"]:
            continue
        cells = "".join(f"{cell(each['samples'].get(side, [])):27}" for side in sides)
        ratios = "".join(f"{each['ratios'][side]:.2f} x than {side}  " for side in sides if side in each["ratios"])
        print(f"{each['label']:40}{each['unit']:7}{cells}{ratios}".rstrip())
    print()
    for sentence in (*_bandwidth(result), *_prompt(rows), *_memory(result), *conditions(result)):
        print(sentence)


def cell(values: list[float]) -> str:
    if not values:
        return ""
    digits = min(4, max(0, 2 - math.floor(math.log10(median(values) or 1))))
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _bandwidth(result: dict[str, Any]) -> list[str]:
    """The memory, and what decoding reaches of it."""
    rows = [result["rows"][key] for key in ("read", "read_best")]
    reads = "; ".join(f"{each['label']} {cell(each['samples'][MEMORY])} {each['unit']}" for each in rows)
    sentences, weights = [reads[0].upper() + reads[1:]], bytes_text(result["decode_bytes"])
    for side, share in result["bandwidth"].items():
        sentences.append(
            f"{side} decodes from depth 0 at {share['gb_per_s']:.1f} GB/s of weights ({weights} a token): "
            f"{share['of_median']:.0%} of the memory's median, {share['of_best']:.0%} of its best"
        )
    return sentences


def _prompt(rows: dict[str, Any]) -> list[str]:
    if "all_logits" not in rows:
        return ["All logits of the long prompt were not measured: they take more than a third of the machine's memory"]
    first, every, anew = (rows[key]["samples"][NATIVE] for key in ("first_token", "all_logits", "all_logits_anew"))
    share, with_memory = (median(a / b for a, b in zip(first, all_of, strict=True)) for all_of in (every, anew))
    return [
        f"The {rows['first_token']['label']} takes {share:.2f} of {rows['all_logits']['label']}, "
        f"and {with_memory:.2f} of {rows['all_logits_anew']['label']}"
    ]


def _memory(result: dict[str, Any]) -> list[str]:
    held = result["memory"]
    sentences = []
    for state, when in (("loaded", "after load"), ("filled", f"with {held['positions']} tokens")):
        cache = held[f"{state}_cache"]
        more = held[state] - result["file_bytes"] - cache
        sentences.append(
            f"Resident {when}: {bytes_text(held[state])} = file + cache of {bytes_text(cache)} + {bytes_text(more)} "
            f"(Python alone: {bytes_text(held['process'])})"
        )
    share = held["filled_cache"] / held["all_layers_f16_cache"]
    full = bytes_text(held["all_layers_f16_cache"])
    return [*sentences, f"The f16 cache of {held['positions']} tokens is {share:.1%} of all layers' ({full})"]


def conditions(result: dict[str, Any]) -> list[str]:
    share = result["others_share"]
    said = f"Load average before: {result['load_average']:.2f}"
    if share is None:
        return [said]
    said += f"; meanwhile other programs took {share:.1%} of the cores"
    return [said] if share < QUIET else [said, "WARNING: the machine was not idle: these figures are not to be quoted"]
