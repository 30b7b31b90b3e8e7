"""Layers × roles: a matrix of coloured cells, one row a layer, with the embedding and the head as wide rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edgekit.figures import kl_text
from edgekit.quant.formats import format_of
from edgekit.report.data import ReportData, TensorRow
from edgekit.report.markup import node, svg, text

_LAYER_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
_STEPS = 7  # .h0 to .h6 in style.css
_WIDTHS = (2, 3, 4, 5, 6, 8, 16, 32)  # .w2 to .w32
_LEFT, _RIGHT = 74.0, 520.0


@dataclass(frozen=True)
class Cell:
    """What one place of a map shows."""

    label: str
    class_: str  # the fill
    dark: bool  # whether the fill is of the high end, where the text takes the other colour
    hint: str


Place = tuple[int | None, str]  # layer and role


def sensitivity_width(data: ReportData) -> int | None:
    """The width that the sensitivity map compares: 4 bits, or the narrowest that every matrix has a candidate of."""
    common: set[int] | None = None
    for sensitivity in data.plan.sensitivities:
        here = {format_of(candidate.format).width for candidate in sensitivity.candidates}
        common = here if common is None else common & here
    if not common:
        return None
    return 4 if 4 in common else min(common)


def sensitivity_map(data: ReportData, width: int) -> Element:
    """Predicted KL of each matrix alone at `width` bits (its best type of that width), in thousandths of a nat."""
    values: dict[Place, float] = {}
    for sensitivity in data.plan.sensitivities:
        best = min(candidate.kl for candidate in sensitivity.candidates if format_of(candidate.format).width == width)
        place = (sensitivity.layer, sensitivity.role)
        values[place] = values.get(place, 0.0) + best
    positive = [value for value in values.values() if value > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))

    def cell(value: float, place: Place) -> Cell:
        share = (math.log10(value) - low) / max(high - low, 1e-9) if value > 0 else 0.0
        step = min(_STEPS - 1, int(share * _STEPS))
        return Cell(_thousandths(value), f"h{step}", step >= 4, f"{_place_name(place)}: {kl_text(value)} nats")

    legend = [(f"h{step}", "") for step in range(_STEPS)]
    legend[0], legend[-1] = ("h0", f"{_thousandths(min(positive))}"), ("h6", f"{_thousandths(max(positive))} mnat")
    return _map(
        f"Predicted KL of each matrix at {width} bits",
        {place: cell(value, place) for place, value in values.items()},
        lambda top: _ramp(legend, top),
    )


def width_map(rows: Sequence[TensorRow]) -> Element:
    """The type of each matrix, coloured by its width."""
    places: dict[Place, list[TensorRow]] = {}
    for row in rows:
        if len(row.shape) == 2:
            places.setdefault((row.layer, row.role), []).append(row)
    cells = {}
    for place, here in places.items():
        widest = max(row.width for row in here)
        names = sorted({row.format for row in here})
        label = names[0].upper() if len(names) == 1 else "mixed"
        cells[place] = Cell(label, _width_class(widest), widest >= 16, f"{_place_name(place)}: {', '.join(names)}")
    weights: dict[int, int] = {}
    for row in rows:
        if len(row.shape) == 2:
            weights[row.width] = weights.get(row.width, 0) + row.weights
    total = sum(weights.values()) or 1
    entries = [(_width_class(width), f"{width}-bit {100 * weights[width] / total:.0f} %") for width in sorted(weights)]
    return _map("Type of each matrix", cells, lambda top: _swatches(entries, top))


def _map(title: str, cells: Mapping[Place, Cell], legend: Callable[[float], list[Element]]) -> Element:
    layers = sorted({layer for layer, _ in cells if layer is not None})
    present = {role for layer, role in cells if layer is not None}
    roles = [role for role in _LAYER_ROLES if role in present] + sorted(present.difference(_LAYER_ROLES))
    wide = [role for role in ("embedding", "head") if (None, role) in cells]
    height = 22.0 if len(layers) <= 40 else 16.0
    size = "small" if height > 20 else "tiny"
    column = (_RIGHT - _LEFT) / max(1, len(roles))
    drawn: list[Element] = legend(6.0)
    y = 46.0
    if "embedding" in wide:
        drawn += _row(_LEFT, y, _RIGHT - _LEFT, 22.0, cells[(None, "embedding")], "small")
        drawn.append(text("embedding", _LEFT - 8, y + 15, "small soft", "end"))
        y += 30
    for index, role in enumerate(roles):
        drawn.append(text(role, _LEFT + (index + 0.5) * column, y + 10, "small soft", "middle"))
    y += 16
    for layer in layers:
        drawn.append(text(str(layer), _LEFT - 8, y + height / 2 + 4, f"{size} soft", "end"))
        for index, role in enumerate(roles):
            x = _LEFT + index * column
            if (layer, role) in cells:
                drawn += _row(x, y, column, height, cells[(layer, role)], size)
            else:
                drawn.append(node("rect", x=x + 0.5, y=y + 0.5, width=column - 1, height=height - 1, class_="none"))
        y += height
    if layers:
        middle = y - height * len(layers) / 2
        label = text("layer", 0, 0, "small soft", "middle")
        label.set("transform", f"translate(14 {middle:g}) rotate(-90)")
        drawn.append(label)
    if "head" in wide:
        y += 8
        drawn += _row(_LEFT, y, _RIGHT - _LEFT, 22.0, cells[(None, "head")], "small")
        drawn.append(text("head", _LEFT - 8, y + 15, "small soft", "end"))
        y += 22
    return svg(_RIGHT + 2, y + 4, title, *drawn)


def _row(x: float, y: float, width: float, height: float, cell: Cell, size: str) -> list[Element]:
    box = node("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=height - 1, rx=1.5, class_=cell.class_)
    ink = "high" if cell.dark else "low"
    label = text(cell.label, x + width / 2, y + height / 2 + 4, f"{size} {ink}", "middle")
    return [node("g", node("title", cell.hint), box, label)]


def _ramp(entries: Sequence[tuple[str, str]], top: float) -> list[Element]:
    """A row of adjoining boxes with a label at either end."""
    box = 26.0
    start = _RIGHT - box * len(entries) - 62
    drawn = [text(entries[0][1], start - 7, top + 10, "small soft", "end")]
    for index, (class_, _) in enumerate(entries):
        drawn.append(node("rect", x=start + index * box, y=top, width=box, height=12, class_=class_))
    drawn.append(text(entries[-1][1], start + box * len(entries) + 7, top + 10, "small soft"))
    return drawn


def _swatches(entries: Sequence[tuple[str, str]], top: float) -> list[Element]:
    """Boxes with a label each, from the left; as narrow as the column needs."""
    drawn: list[Element] = []
    step = min(96.0, (_RIGHT - _LEFT) / max(1, len(entries)))
    for index, (class_, label) in enumerate(entries):
        x = _LEFT + index * step
        drawn.append(node("rect", x=x, y=top, width=12, height=12, rx=1.5, class_=class_))
        drawn.append(text(label, x + 17, top + 10, "small soft"))
    return drawn


def _thousandths(value: float) -> str:
    """Milli-nats with two significant digits, in at most five characters: "0.0031", "0.45", "12", "<1e-4"."""
    milli = value * 1e3
    if milli <= 0:
        return "0"
    if milli < 1e-4:
        return "<1e-4"
    if milli >= 1e5:
        return f"{milli:.0e}".replace("e+0", "e")
    digits = max(0, 1 - math.floor(math.log10(milli)))
    return f"{milli:.{min(digits, 4)}f}"


def _place_name(place: Place) -> str:
    layer, role = place
    return role if layer is None else f"layer {layer} {role}"


def _width_class(width: int) -> str:
    return f"w{min(_WIDTHS, key=lambda known: abs(known - width))}"
