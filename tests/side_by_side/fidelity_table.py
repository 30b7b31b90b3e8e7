"""What the fidelity bench prints: the rows of each part, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fidelity_parts import Row, Verdict

from edgekit.figures import bytes_text, seconds_text

TITLES = ("made by", "file bytes", "tensor bytes", "KLD", "±", "99.9 %", "top-1", "predicted", "measured", "time, peak")
WIDTHS = (13, 13, 9, 9, 9, 8, 10, 10, 22)  # of all but the first
SOURCES = (
    "KLD, ±, 99.9 % and top-1 (same first choice): stock llama-perplexity --kl-divergence, nats per token, against a "
    "float32 GGUF of the checkpoint.",
    "predicted, measured: edgekit, before the file runs anywhere: the plan's table, and dequantised weights in float32 "
    "on held-out calibration text (after --distil or --qat on windows of their own).",
    "accuracy: of the next token, by edgekit eval on the judge's text, the file's and the checkpoint's; zlib: by "
    "edgekit prune, the pruned matrices in BF16 before and after.",
    "time, peak: wall clock and VmHWM of the edgekit command, statistics not taken again where they were kept.",
)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines, with a heading for each part."""
    for part in dict.fromkeys(row["part"] for row in rows):
        lines = [TITLES, *(_cells(row) for row in rows if row["part"] == part)]
        longest = max(len(first) for first, *_ in lines)
        yield f"\n{part}"
        for first, *rest in lines:
            cells = (cell.rjust(width) for cell, width in zip(rest, WIDTHS, strict=True))
            yield " ".join((first.ljust(longest), *cells)).rstrip()


def verdicts(found: Iterable[Verdict]) -> Iterator[str]:
    """A line for each: what, target, value, met or missed."""
    for verdict in found:
        said = "met" if verdict.met else "MISSED"
        yield f"{verdict.what}: {verdict.value:.4g}, asked for at most {verdict.at_most:g}: {said}"


def _cells(row: Row) -> tuple[str, ...]:
    kls = row.get("edgekit", {})
    cost = f"{seconds_text(row['seconds'])}, {bytes_text(row['peak_rss_bytes'])}" if "seconds" in row else ""
    return (
        _label(row),
        f"{row['bytes']:,}",
        f"{row['tensor_bytes']:,}",
        f"{row['kld_mean']:.5f}",
        f"{row['kld_stderr']:.5f}",
        f"{row['kld_p999']:.4f}",
        f"{row['same_top1_percent']:.2f} %",
        _kl(kls.get("kld_predicted")),
        _kl(kls.get("kld_measured")),
        cost,
    )


def _label(row: Row) -> str:
    """Who made it, with the figures that only its part has."""
    said = str(row["made_by"])
    if "share_of_first" in row:
        said += f" ({row['share_of_first']:.0%})"
    if "top1" in row:
        said += f" (accuracy {row['top1']:.2%}, checkpoint {row['top1_reference']:.2%})"
    if "stored" in row:
        stored = row["stored"]
        said += f" (zlib: {bytes_text(stored['zlib_before'])} to {bytes_text(stored['zlib_after'])})"
    return said


def _kl(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
