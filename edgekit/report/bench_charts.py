"""The charts of a benchmark's report: tokens, repetitions, the device's timeline, memory, and two side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from edgekit.devices.comparison import Comparison, Ratio, steady_rate
from edgekit.devices.result import BenchResult, Moment, Sample
from edgekit.figures import bytes_text
from edgekit.report.markup import node, svg, text
from edgekit.report.plot import Plot, thinned

_WIDE = 1036.0
_MOST_POINTS = 20_000  # of all lines in one chart
SERIES = 6  # .s0 to .s5 in style.css


def tokens(samples: Sequence[Sample]) -> Element | None:
    """Milliseconds of each token over its repetition, a line for each; None where no figure is finite."""
    lines = [
        (rep, [1e3 * step for step in sample.inter_token_s])
        for rep, sample in enumerate(samples, 1)
        if len(sample.inter_token_s) > 1 and all(map(math.isfinite, sample.inter_token_s))
    ]
    if not lines:
        return None
    longest = max(len(steps) for _, steps in lines)
    plot = Plot.over([2, longest + 1], [step for _, steps in lines for step in steps], width=_WIDE)
    drawn = plot.frame("token of the repetition", "ms since the one before", whole=True)
    for rep, steps in lines:
        places, values = thinned(steps, max(20, _MOST_POINTS // len(lines)))
        drawn.append(plot.line([place + 2 for place in places], values, "many", f"repetition {rep}"))
    return plot.drawing("Time of each token over its repetition", *drawn)


def repetitions(result: BenchResult) -> Element | None:
    """Decode's tokens per second by repetition, with the median and its interval."""
    rates = [(rep, sample.decode_tps) for rep, sample in enumerate(result.samples, 1)]
    rates = [(rep, rate) for rep, rate in rates if math.isfinite(rate)]
    median, interval = result.summary.decode_tps.median, result.summary.decode_tps.ci95
    if not rates or not math.isfinite(median):
        return None
    known = interval if interval is not None and all(map(math.isfinite, interval)) else ()
    plot = Plot.over([0.5, len(result.samples) + 0.5], [*(rate for _, rate in rates), *known])
    drawn = [plot.band(*known)] if known else []
    drawn += plot.frame("repetition", "decode, tokens/s", whole=True)
    drawn.append(plot.level(median, "curve"))
    drawn += [plot.dot(rep, rate, "dot", f"repetition {rep}: {rate:.2f} tokens/s") for rep, rate in rates]
    return plot.drawing("Decode by repetition", *drawn)


def bars(rows: Sequence[tuple[str, float, str, bool]], title: str) -> Element:
    """(name, value, its text, whether it stands out) as bars from zero."""
    largest = max((*(value for _, value, _, _ in rows), 1e-300))
    drawn: list[Element] = []
    for index, (name, value, label, last) in enumerate(rows):
        y, span = index * 34.0, max(1.0, 210 * value / largest)
        drawn.append(text(name, 150, y + 19, "soft", "end"))
        drawn.append(node("rect", x=162, y=y + 5, width=span, height=20, rx=1.5, class_="bar last" if last else "bar"))
        drawn.append(text(label, 162 + span + 8, y + 19.5))
    return svg(500, 34.0 * len(rows), title, *drawn)


def predicted(result: BenchResult) -> Element | None:
    """Predicted and measured milliseconds of a token, the parts of the prediction first."""
    told, measured = result.predicted, result.summary.decode_tps.median
    if told is None or not (math.isfinite(measured) and measured > 0):
        return None
    rows = [("reading", 1e3 * told.memory_s, False)]
    if told.compute_s is not None:
        rows.append(("arithmetic", 1e3 * told.compute_s, False))
    rows += [("predicted", 1e3 / told.decode_tps, False), ("measured", 1e3 / measured, True)]
    return bars([(name, ms, f"{ms:.2f} ms", last) for name, ms, last in rows], "Milliseconds per token")


def memory(result: BenchResult) -> Element | None:
    found = result.memory
    rows = [
        ("before loading", found.baseline_bytes, False),
        ("largest (RSS)", found.peak_bytes, True),
        ("at the end (PSS)", found.pss_bytes, False),
        ("the file", result.model.bytes, False),
    ]
    if found.peak_bytes is None:
        return None
    return bars([(name, size, bytes_text(size), last) for name, size, last in rows if size is not None], "Memory")


def timeline(result: BenchResult, taken: Mapping[str, Sample]) -> list[tuple[str, list[str], Element]]:
    """(what, the series' names, chart) of all that was seen once a second; series number N has the colour .tN.

    The spans of the samples are shaded, and named by their keys.
    """
    moments = result.timeline
    clocks = _clocks(result)
    heat = {name: [m.temp_c.get(name) if m.temp_c else None for m in moments] for name in _zones(moments)}
    load = {"load": [moment.load for moment in moments]}
    charts = []
    for what, unit, series in (("Clocks", "GHz", clocks), ("Temperatures", "degrees C", heat), ("Load", "load", load)):
        known = {name: values for name, values in series.items() if any(value is not None for value in values)}
        if known:
            charts.append((what, list(known), _over_time(moments, taken, known, unit, what)))
    return charts


def _clocks(result: BenchResult) -> dict[str, list[float | None]]:
    """GHz of the cores that were used; of all where that is not known."""
    moments = result.timeline
    count = max((len(moment.freq_hz or ()) for moment in moments), default=0)
    cpus = range(count) if result.config.affinity is None else [cpu for cpu in result.config.affinity if cpu < count]

    def clock(moment: Moment, cpu: int) -> float | None:
        hz = moment.freq_hz[cpu] if moment.freq_hz and cpu < len(moment.freq_hz) else None
        return None if hz is None else hz / 1e9

    return {f"core {cpu}": [clock(moment, cpu) for moment in moments] for cpu in cpus}


def _zones(moments: Sequence[Moment]) -> list[str]:
    return sorted({name for moment in moments for name in moment.temp_c or ()})


def _over_time(
    moments: Sequence[Moment],
    taken: Mapping[str, Sample],
    series: Mapping[str, Sequence[float | None]],
    unit: str,
    title: str,
) -> Element:
    times = [moment.at_s for moment in moments]
    values = [value for each in series.values() for value in each if value is not None]
    plot = Plot.over(times, values, width=_WIDE, height=190)
    drawn = [
        plot.span(sample.at_s, sample.at_s + _lasted(sample), name)
        for name, sample in taken.items()
        if sample.at_s is not None and math.isfinite(_lasted(sample))
    ]
    drawn += plot.frame("seconds", unit)
    for index, (name, each) in enumerate(series.items()):
        known = [(at, value) for at, value in zip(times, each, strict=True) if value is not None]
        if known:
            seen, found = [at for at, _ in known], [value for _, value in known]
            drawn.append(plot.line(seen, found, f"curve s{index % SERIES}", name))
    return plot.drawing(title, *drawn)


def _lasted(sample: Sample) -> float:
    return sample.load_s + sample.ttft_s + sum(sample.inter_token_s)


def ratios(rows: Sequence[tuple[str, Ratio, bool]], gate: float | None) -> Element:
    """(name, how fast B is relative to A, whether the gate looks at it) with intervals, about the line at 1."""
    ends = [end for _, ratio, _ in rows for end in (ratio.low, ratio.high, ratio.median) if math.isfinite(end)]
    ends += [1.0] + ([1 - gate] if gate is not None else [])
    plot = Plot.over([min(ends) - 0.02, max(ends) + 0.02], [0, 1], width=_WIDE, height=60 + 44.0 * len(rows))
    bottom, drawn = plot.y.start, plot.x_axis("speed of B, in that of A")
    one = plot.x.at(1.0)
    drawn.append(node("line", x1=one, y1=14, x2=one, y2=bottom, class_="axis"))
    for index, (name, ratio, gated) in enumerate(rows):
        y = 14 + 44.0 * index + 22
        drawn.append(text(name, 8, y - 8, "strong halo"))
        if gate is not None and gated:
            x, told = plot.x.at(1 - gate), node("title", f"gate: {gate:.1%} slower")
            drawn.append(node("line", told, x1=x, y1=y - 20, x2=x, y2=y + 20, class_="limit"))
        hint = f"{name}: {ratio.median:.3f}"
        if math.isfinite(ratio.low + ratio.high):  # too few pairs have no interval
            hint += f", {ratio.low:.3f} to {ratio.high:.3f}"
            left, right = plot.x.at(ratio.low), plot.x.at(ratio.high)
            drawn.append(node("line", node("title", hint), x1=left, y1=y, x2=right, y2=y, class_="whisker"))
        if math.isfinite(ratio.median):
            drawn.append(node("circle", node("title", hint), cx=plot.x.at(ratio.median), cy=y, r=5, class_="chosen"))
    return plot.drawing("Ratios with their intervals", *drawn)


def pairs(comparison: Comparison) -> Element | None:
    """Decode's tokens per second of A and B by repetition, as the ratios count them."""
    sides = [("A", "dot", comparison.a), ("B", "chosen", comparison.b)]
    rates = {name: [steady_rate(sample.inter_token_s) for sample in result.samples] for name, _, result in sides}
    points = [
        (name, class_, rep, rate)
        for name, class_, _ in sides
        for rep, rate in enumerate(rates[name], 1)
        if math.isfinite(rate)
    ]
    if not points:
        return None
    longest = max(len(result.samples) for _, _, result in sides)
    plot = Plot.over([0.5, longest + 0.5], [rate for *_, rate in points], width=_WIDE)
    drawn = plot.frame("pair" if comparison.paired else "repetition", "decode, tokens/s", whole=True)
    if comparison.paired:
        for rep, pair in enumerate(zip(rates["A"], rates["B"], strict=False), 1):
            if all(map(math.isfinite, pair)):
                drawn.append(plot.line([rep, rep], pair, "same"))
    drawn += [
        plot.dot(rep, rate, class_, f"{name}, {rep}: {rate:.2f} tokens/s", 5) for name, class_, rep, rate in points
    ]
    return plot.drawing("Decode by pair", *drawn)
