"""HTML and SVG as element trees: everything is escaped by construction, since names come from files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None

_STYLE = Path(__file__).with_name("style.css")

# Characters that neither HTML nor XML can carry, not even escaped.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def node(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element; `class_` is class, `stroke_width` is stroke-width; None children and attributes are left out."""
    element = Element(tag, {_name(key): _value(value) for key, value in attributes.items() if value is not None})
    for child in children:
        if isinstance(child, str):
            _append_text(element, _FORBIDDEN.sub("\ufffd", child))
        elif child is not None:
            element.append(child)
    return element


def text(content: str, x: float, y: float, class_: str | None = None, anchor: str | None = None) -> Element:
    """An SVG text at a baseline point; `anchor` is start (the default), middle or end."""
    return node("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def svg(width: float, height: float, title: str, *children: Child) -> Element:
    """An SVG that scales down with its column and tells its title to screen readers."""
    return node(
        "svg",
        node("title", title),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        style=f"max-width:{width:g}px",
    )


def document(title: str, *content: Child) -> str:
    """A whole page, with its style inside."""
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("title", title),
        node("style", _STYLE.read_text()),
    )
    page = node("html", head, node("body", node("main", *content)), lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def section(title: str, why: str, *content: Child) -> Element:
    """A panel: heading, what it shows and why, content."""
    return node("section", node("h2", title), node("p", why, class_="why"), *content)


def fact(name: str, value: str, *notes: str | None) -> Element:
    """One of the large figures at the top."""
    return node(
        "div",
        node("dt", name),
        node("dd", value, class_="big"),
        *(node("dd", note, class_="sub") for note in notes if note),
    )


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    """Rows of cells, all but the first of each right-aligned."""

    def line(tag: str, cells: Sequence[str]) -> Element:
        return node("tr", *(node(tag, cell, class_="n" if place else None) for place, cell in enumerate(cells)))

    body = node("tbody", *(line("td", row) for row in rows))
    return node("table", node("thead", line("th", titles)), body)


def _append_text(element: Element, content: str) -> None:
    if len(element):
        last = element[-1]
        last.tail = (last.tail or "") + content
    else:
        element.text = (element.text or "") + content


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: str | float) -> str:
    return _FORBIDDEN.sub("\ufffd", value) if isinstance(value, str) else f"{value:.6g}"
