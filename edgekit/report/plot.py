"""A chart's frame: two linear axes with ticks, and points, lines and bands between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edgekit.report.charts import Scale, linear_ticks
from edgekit.report.markup import node, svg, text

LEFT, TOP, RIGHT, BOTTOM = 58.0, 14.0, 12.0, 46.0  # margins


@dataclass(frozen=True)
class Plot:
    """Width and height of the whole drawing, and the two scales within it."""

    width: float
    height: float
    x: Scale
    y: Scale

    @classmethod
    def over(cls, xs: Sequence[float], ys: Sequence[float], *, width: float = 500, height: float = 280) -> Plot:
        """A frame around the points, with a little room above and below."""
        room = 0.06 * ((max(ys) - min(ys)) or abs(max(ys)) or 1)
        low, high = min(ys) - room, max(ys) + room
        first, last = min(xs), max(xs)
        if first == last:
            first, last = first - 0.5, last + 0.5
        return cls(
            width,
            height,
            Scale(first, last, LEFT, width - RIGHT, log=False),
            Scale(low, high, height - BOTTOM, TOP, log=False),
        )

    def frame(self, x_title: str, y_title: str, *, whole: bool = False) -> list[Element]:
        """`whole`: along, only whole numbers mean something."""
        return [*self.x_axis(x_title, whole=whole), *self.y_axis(y_title)]

    def x_axis(self, title: str, *, whole: bool = False) -> list[Element]:
        bottom = self.y.start
        drawn = [node("line", x1=self.x.start, y1=bottom, x2=self.x.end, y2=bottom, class_="axis")]
        ticks = linear_ticks(self.x.low, self.x.high)
        for value in ticks if not whole else [tick for tick in ticks if tick == round(tick)]:
            at = self.x.at(value)
            drawn.append(node("line", x1=at, y1=TOP, x2=at, y2=bottom, class_="grid"))
            drawn.append(text(f"{value:.6g}", at, bottom + 17, "small soft", "middle"))
        return [*drawn, text(title, self.x.end, self.height - 8, "small", "end")]

    def y_axis(self, title: str) -> list[Element]:
        drawn = []
        for value in linear_ticks(self.y.low, self.y.high):
            at = self.y.at(value)
            drawn.append(node("line", x1=self.x.start, y1=at, x2=self.x.end, y2=at, class_="grid"))
            drawn.append(text(f"{value:.6g}", self.x.start - 8, at + 4, "small soft", "end"))
        label = text(title, 0, 0, "small", "end")
        label.set("transform", f"translate(11 {TOP:g}) rotate(-90)")
        return [*drawn, label]

    def line(self, xs: Sequence[float], ys: Sequence[float], class_: str, hint: str | None = None) -> Element:
        points = " ".join(f"{self.x.at(x):.1f},{self.y.at(y):.1f}" for x, y in zip(xs, ys, strict=True))
        return node("polyline", node("title", hint) if hint else None, points=points, class_=class_)

    def dot(self, x: float, y: float, class_: str, hint: str, radius: float = 3.5) -> Element:
        return node("circle", node("title", hint), cx=self.x.at(x), cy=self.y.at(y), r=radius, class_=class_)

    def level(self, y: float, class_: str) -> Element:
        """A line across, at a value."""
        return node("line", x1=self.x.start, y1=self.y.at(y), x2=self.x.end, y2=self.y.at(y), class_=class_)

    def band(self, low: float, high: float, class_: str = "band") -> Element:
        """What lies between two values, across."""
        top = self.y.at(high)
        width = self.x.end - self.x.start
        return node("rect", x=self.x.start, y=top, width=width, height=max(self.y.at(low) - top, 1), class_=class_)

    def span(self, start: float, end: float, hint: str) -> Element:
        """What lies between two places along, from top to bottom."""
        left, right = self.x.at(max(start, self.x.low)), self.x.at(min(end, self.x.high))
        box = {"x": left, "y": TOP, "width": max(right - left, 1), "height": self.y.start - TOP}
        return node("rect", node("title", hint), class_="band", **box)

    def drawing(self, title: str, *drawn: Element) -> Element:
        return svg(self.width, self.height, title, *drawn)


def thinned(values: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """(places, values) of at most about that many points: of each stretch, its least and its greatest."""
    if len(values) <= most:
        return [float(place) for place in range(len(values))], list(values)
    step = -(-2 * len(values) // most)
    places: list[int] = []
    for start in range(0, len(values), step):
        stretch = range(start, min(start + step, len(values)))
        places += sorted({min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)})
    return [float(place) for place in places], [values[place] for place in places]
