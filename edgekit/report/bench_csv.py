"""A benchmark as a table: one row for each repetition, one column for each figure."""

from __future__ import annotations

import csv
import io
import math

from edgekit.devices.comparison import Comparison
from edgekit.devices.result import BenchResult, Sample

COLUMNS = (
    "run_id", "date", "status", "emulated", "side", "device", "model", "model_sha256", "runtime", "threads",
    "cache_type", "prompt_tokens", "gen_tokens", "repetition", "at_s", "load_cold_s", "load_s", "ttft_s", "prefill_tps",
    "decode_tps", "output_sha256",
)  # fmt: skip


def csv_text(result: BenchResult | Comparison) -> str:
    """With a line of titles; `side` is a or b in a comparison. What is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    sides = {"a": result.a, "b": result.b} if isinstance(result, Comparison) else {"": result}
    for side, one in sides.items():
        for repetition, sample in enumerate(one.samples, 1):
            row = _row(one, sample) | {"side": side, "repetition": repetition}
            writer.writerow([_cell(row[column]) for column in COLUMNS])
    return text.getvalue()


def _row(result: BenchResult, sample: Sample) -> dict[str, object]:
    config = result.config
    return {
        "run_id": result.run_id,
        "date": result.date,
        "status": result.status,
        "emulated": str(result.emulated).lower(),
        "device": None if result.device is None else result.device.target,
        "model": result.model.path,
        "model_sha256": result.model.sha256,
        "runtime": result.build.runtime,
        "threads": config.threads,
        "cache_type": config.cache_type,
        "prompt_tokens": config.prompt_tokens,
        "gen_tokens": config.gen_tokens,
        "at_s": sample.at_s,
        "load_cold_s": sample.load_cold_s,
        "load_s": sample.load_s,
        "ttft_s": sample.ttft_s,
        "prefill_tps": sample.prefill_tps,
        "decode_tps": sample.decode_tps,
        "output_sha256": sample.output_sha256,
    }


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
