"""The page of two benchmarks side by side: outcome, ratios with their intervals, pairs, and both sides' figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from edgekit.devices.comparison import GATED, Comparison, Ratio
from edgekit.devices.result import BenchResult, Quantiles
from edgekit.figures import bytes_text
from edgekit.report import bench_charts as charts
from edgekit.report.bench_page import (
    FIGURES,
    emulation,
    footer,
    how,
    marked,
    model_name,
    number_text,
    timeline,
    verdict,
    what_ran,
    where,
)
from edgekit.report.markup import Child, document, fact, node, section, table


def comparison_page(comparison: Comparison) -> str:
    """A self-contained HTML page (inline SVG and CSS, no scripts)."""
    emulated = comparison.a.emulated or comparison.b.emulated
    title = f"{marked(emulated)}{model_name(comparison.a)} and {model_name(comparison.b)} · edgekit comparison"
    return document(title, *_comparison(comparison))


def _comparison(comparison: Comparison) -> Iterator[Child]:
    a, b = comparison.a, comparison.b
    order = "interleaved in one run" if comparison.paired else "two stored results"
    yield node("p", "edgekit comparison", class_="over")
    yield node("h1", f"{model_name(a)} (A) and {model_name(b)} (B)")
    differs = f" They differ in {', '.join(comparison.differs)}." if comparison.differs else ""
    yield node("p", f"{where(a)}, {how(a)}; {order}. {b.date}.{differs}", class_="lead")
    yield emulation(a) or emulation(b)
    yield _outcome(comparison)
    yield _ratio_facts(comparison)
    yield _ratios(comparison)
    chart = charts.pairs(comparison)
    if chart is not None:
        why = "A in blue, B in orange" + (", each pair joined." if comparison.paired else ".")
        why += " As in the ratios, a repetition counts by its steady tokens, which what else ran did not hold up."
        yield section(
            "Decode by pair" if comparison.paired else "Decode by repetition", why, node("div", chart, class_="scroll")
        )
    yield node("div", _figures_of("A", a), _figures_of("B", b), class_="pair")
    sides = {"A": a, "B": b} if comparison.paired else {"A": a}
    taken = {f"{side}, {rep}": each for side, one in sides.items() for rep, each in enumerate(one.samples, 1)}
    yield timeline(a, taken)
    yield what_ran((a, b))
    yield footer((a, b))


def _outcome(comparison: Comparison) -> Element:
    words = comparison.status if comparison.outcome is None else f"{comparison.outcome} ({comparison.status})"
    return verdict(comparison.outcome or comparison.status, words, comparison.reasons)


def _ratio_facts(comparison: Comparison) -> Element:
    facts = [
        fact(name, f"{100 * (ratio.median - 1):+.1f} %", f"B / A: {_three(ratio.low)} to {_three(ratio.high)}")
        for field, name, _ in FIGURES
        if math.isfinite((ratio := getattr(comparison.ratios, field)).median)
    ]
    return node("dl", *facts, class_="facts")


def _ratios(comparison: Comparison) -> Element:
    rows, speeds = [], []
    for field, name, unit in FIGURES:
        ratio: Ratio = getattr(comparison.ratios, field)
        rows.append((f"{name}, {unit}", *map(_three, (ratio.median, ratio.low, ratio.high)), str(ratio.n)))
        rate = unit == "tokens/s"
        speeds.append((name, ratio if rate else _inverse(ratio), field in GATED))
    gate = "" if comparison.gate is None else f" The dashed line is the gate: {comparison.gate:.1%} slower."
    meaning = "Right of 1, B is the faster one; of times the inverse is drawn."
    why = f"The median and its 95 % bootstrap interval. {meaning}{gate}"
    titles = ("B over A", "ratio", "from", "to", "pairs" if comparison.paired else "n")
    chart = node("div", charts.ratios(speeds, comparison.gate), class_="scroll")
    return section("Ratios", why, chart, node("div", table(titles, rows), class_="scroll bytes"))


def _three(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else "not known"


def _inverse(ratio: Ratio) -> Ratio:
    """How fast, of how long."""
    median, low, high = (1 / end if end > 0 else math.nan for end in (ratio.median, ratio.high, ratio.low))
    return Ratio(median, low, high, ratio.n)


def _figures_of(side: str, result: BenchResult) -> Element:
    rows = []
    for field, name, unit in FIGURES:
        found: Quantiles = getattr(result.summary, field)
        rows.append((f"{name}, {unit}", *map(number_text, (found.median, found.p10, found.p90, found.mad))))
    peak = result.memory.peak_bytes
    rows.append(("Peak memory", "not known" if peak is None else bytes_text(peak), "", "", ""))
    trust = f"{result.status}{': ' if result.reasons else ''}{'; '.join(result.reasons)}"
    content = node("div", table(("", "median", "p10", "p90", "MAD"), rows), class_="scroll")
    return section(f"{side}: {model_name(result)}", trust, content)
