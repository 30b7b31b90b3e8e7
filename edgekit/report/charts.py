"""The report's charts: where the bytes went, KL against size, predicted against measured KL, seconds per stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edgekit.figures import bytes_text, kl_text, seconds_text
from edgekit.quant.plan import MeasuredKl
from edgekit.report.data import AblationRow, ReportData
from edgekit.report.markup import node, svg, text

_WIDTH, _HEIGHT = 500.0, 330.0
_PLOT_LEFT, _PLOT_TOP, _PLOT_RIGHT, _PLOT_BOTTOM = 58.0, 14.0, 488.0, 284.0
_DARK_FILLS = frozenset({"embedding", "q", "k", "gate", "up", "vectors"})
_KL_FLOOR = 1e-6  # nats; a runtime's own arithmetic costs more


@dataclass(frozen=True)
class Scale:
    """A value's place between two ends of an axis; `log` takes logarithms first."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        convert: Callable[[float], float] = math.log10 if self.log else float
        low, high = convert(self.low), convert(self.high)
        return self.start + (convert(value) - low) / (high - low) * (self.end - self.start)


def byte_bar(shares: Sequence[tuple[str, str, int]]) -> Element:
    """One bar for the file; `shares` is (label, class of the fill, bytes) in order."""
    total = sum(size for _, _, size in shares)
    width, x = 1036.0, 0.0
    drawn: list[Element] = []
    for label, class_, size in shares:
        span = width * size / total
        group = node("g", node("title", f"{label}: {bytes_text(size)}, {100 * size / total:.1f} %"))
        group.append(node("rect", x=x, y=0, width=max(span - 1, 0.3), height=44, class_=class_))
        if span > 7.5 * len(label) + 10:
            ink = "on-dark" if class_ in _DARK_FILLS else "on-light"
            group.append(text(label, x + 7, 19, f"strong {ink}"))
            if span > 52:
                group.append(text(f"{100 * size / total:.1f} %", x + 7, 35, f"small {ink}"))
        drawn.append(group)
        x += span
    return svg(width, 44, "Bytes of the file by role", *drawn)


def size_curve(data: ReportData) -> Element | None:
    """Predicted KL of the plans considered against file size; None where there are fewer than two."""
    points = sorted((point.bytes, point.kl) for point in data.plan.curve if point.kl > _KL_FLOOR)
    if len(points) < 2:
        return None
    measured = [(m.bytes, m.measured) for m in data.plan.measured if m.bytes is not None and m.measured > _KL_FLOOR]
    chosen = data.plan.kld_predicted
    sizes = [size for size, _ in points + measured] + [data.bytes]
    if data.max_bytes is not None and data.max_bytes < 1.25 * max(sizes):
        sizes.append(data.max_bytes)
    margin = 0.04 * (max(sizes) - min(sizes))
    x = Scale(min(sizes) - margin, max(sizes) + margin, _PLOT_LEFT, _PLOT_RIGHT, log=False)
    kls = [kl for _, kl in points + measured] + ([chosen] if chosen is not None and chosen > _KL_FLOOR else [])
    y = Scale(min(kls) / 1.4, max(kls) * 1.4, _PLOT_BOTTOM, _PLOT_TOP, log=True)
    drawn = [*_x_axis(x, linear_ticks(x.low, x.high), bytes_text, "file size"), *_y_axis(y, "predicted KL, nats")]
    if data.max_bytes is not None and x.low <= data.max_bytes <= x.high:
        drawn += _limit_line(x.at(data.max_bytes), f"budget {bytes_text(data.max_bytes)}")
    path = " ".join(f"{x.at(size):.1f},{y.at(kl):.1f}" for size, kl in points)
    drawn.append(node("polyline", points=path, class_="curve"))
    if len(points) <= 60:
        drawn += [_dot(x.at(size), y.at(kl), "dot", 2.5, f"{bytes_text(size)}: {kl_text(kl)}") for size, kl in points]
    drawn += [
        _dot(x.at(size), y.at(kl), "ring", 3.5, f"measured, {bytes_text(size)}: {kl_text(kl)}") for size, kl in measured
    ]
    if chosen is not None and chosen > _KL_FLOOR:
        drawn += _chosen(x.at(data.bytes), y.at(chosen), f"this file: {bytes_text(data.bytes)}, {kl_text(chosen)}")
    return svg(_WIDTH, _HEIGHT, "Predicted KL against file size", *drawn)


def agreement(measured: Sequence[MeasuredKl], chosen: tuple[float, float] | None) -> Element | None:
    """Points (predicted, measured KL) about the diagonal where they agree; None where there are none."""
    kept = [(m.predicted, m.measured, m.what) for m in measured if min(m.predicted, m.measured) > 0]
    last = chosen if chosen is not None and min(chosen) > 0 else None
    values = [value for pair in (*(point[:2] for point in kept), *([last] if last else [])) for value in pair]
    if not values:
        return None
    low, high = min(values) / 1.6, max(values) * 1.6
    x = Scale(low, high, _PLOT_LEFT, _PLOT_RIGHT, log=True)
    y = Scale(low, high, _PLOT_BOTTOM, _PLOT_TOP, log=True)
    drawn = [*_x_axis(x, _log_ticks(low, high), _tick_kl, "predicted KL, nats"), *_y_axis(y, "measured KL, nats")]
    drawn.append(node("line", x1=x.at(low), y1=y.at(low), x2=x.at(high), y2=y.at(high), class_="same"))
    drawn.append(text("measured = predicted", x.at(high) - 34, y.at(high) + 14, "small soft halo", "end"))
    for predicted, found, what in kept:
        hint = f"{what}: predicted {kl_text(predicted)}, measured {kl_text(found)}"
        drawn.append(_dot(x.at(predicted), y.at(found), "dot", 3.5, hint))
    if last is not None:
        drawn += _chosen(x.at(last[0]), y.at(last[1]), f"this file: {kl_text(last[0])} → {kl_text(last[1])}")
    return svg(_WIDTH, _HEIGHT, "Measured against predicted KL", *drawn)


def ablation_bars(rows: Sequence[AblationRow]) -> Element:
    """The KL of each row, with its size and its share of the first row's KL."""
    first, largest = rows[0].kl, max((*(row.kl for row in rows), 1e-300))
    drawn: list[Element] = []
    for index, row in enumerate(rows):
        y = index * 42.0
        span = max(1.0, 480 * row.kl / largest)
        share = f" · {100 * row.kl / first:.0f} %" if index and first > 0 else ""
        drawn.append(text(row.step, 312, y + 15, "strong", "end"))
        drawn.append(text(row.what, 312, y + 30, "small soft", "end"))
        class_ = "bar last" if index == len(rows) - 1 else "bar"
        drawn.append(node("rect", x=324, y=y + 5, width=span, height=24, rx=1.5, class_=class_))
        drawn.append(text(f"{kl_text(row.kl)}{share} · {bytes_text(row.bytes)}", 324 + span + 8, y + 21.5))
    return svg(1036, 42.0 * len(rows) - 8, "Measured KL with one more step at a time", *drawn)


def stage_bars(seconds: Mapping[str, float]) -> Element:
    """Seconds of each stage, in order."""
    longest = max((*seconds.values(), 1e-9))
    drawn: list[Element] = []
    for index, (stage, spent) in enumerate(seconds.items()):
        y = index * 26.0
        span = max(1.0, 700 * spent / longest)
        drawn.append(text(stage, 150, y + 15, "soft", "end"))
        drawn.append(node("rect", x=162, y=y + 3, width=span, height=17, rx=1.5, class_="bar"))
        drawn.append(text(seconds_text(spent), 162 + span + 8, y + 15.5))
    return svg(1036, 26.0 * len(seconds), "Seconds per stage", *drawn)


def _chosen(x: float, y: float, label: str) -> list[Element]:
    """A large point with its label on the side that has room."""
    length = 6.9 * len(label)  # about a bold letter's width
    if x + 10 + length <= _PLOT_RIGHT:
        place = text(label, x + 10, max(y - 8, _PLOT_TOP + 26), "strong warm halo")
    else:
        place = text(label, max(x - 10, _PLOT_LEFT + length), min(y + 18, _PLOT_BOTTOM - 6), "strong warm halo", "end")
    return [_dot(x, y, "chosen", 6, label), place]


def _dot(x: float, y: float, class_: str, radius: float, hint: str) -> Element:
    return node("circle", node("title", hint), cx=x, cy=y, r=radius, class_=class_)


def _limit_line(x: float, label: str) -> list[Element]:
    right = x > (_PLOT_LEFT + _PLOT_RIGHT) / 2
    return [
        node("line", x1=x, y1=_PLOT_TOP, x2=x, y2=_PLOT_BOTTOM, class_="limit"),
        text(label, x - 6 if right else x + 6, _PLOT_TOP + 10, "small warm halo", "end" if right else "start"),
    ]


def _x_axis(scale: Scale, ticks: Sequence[float], label: Callable[[float], str], title: str) -> list[Element]:
    drawn = [node("line", x1=_PLOT_LEFT, y1=_PLOT_BOTTOM, x2=_PLOT_RIGHT, y2=_PLOT_BOTTOM, class_="axis")]
    for value in ticks:
        x = scale.at(value)
        drawn.append(node("line", x1=x, y1=_PLOT_TOP, x2=x, y2=_PLOT_BOTTOM, class_="grid"))
        drawn.append(text(label(value), x, _PLOT_BOTTOM + 17, "small soft", "middle"))
    drawn.append(text(title, _PLOT_RIGHT, _HEIGHT - 8, "small", "end"))
    return drawn


def _y_axis(scale: Scale, title: str) -> list[Element]:
    drawn: list[Element] = []
    for value in _log_ticks(scale.low, scale.high):
        y = scale.at(value)
        drawn.append(node("line", x1=_PLOT_LEFT, y1=y, x2=_PLOT_RIGHT, y2=y, class_="grid"))
        drawn.append(text(_tick_kl(value), _PLOT_LEFT - 8, y + 4, "small soft", "end"))
    label = text(title, 0, 0, "small", "end")
    label.set("transform", f"translate(11 {_PLOT_TOP:g}) rotate(-90)")
    drawn.append(label)
    return drawn


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where the range is short; at most about seven."""
    decades = math.log10(high / low)
    steps = (
        (1,) if decades > 3 else (1, 3) if decades > 2 else (1, 2, 5) if decades > 0.6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    )
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, round((last - first) / 7))
    ticks = [step * 10.0**power for power in range(first, last + 1) if power % every == 0 for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def linear_ticks(low: float, high: float) -> list[float]:
    """Four to six round numbers."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * factor for factor in (1, 2, 2.5, 5, 10)), key=lambda size: abs(size - raw))
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick_kl(value: float) -> str:
    return f"{value:g}" if value >= 0.9e-3 else kl_text(value).replace(".00", "").removeprefix("1 × ")
