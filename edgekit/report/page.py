"""The page: headings, key facts, tables, and the charts between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from edgekit.figures import bytes_text, count_text, kl_text, seconds_text
from edgekit.models.files import atomic_write
from edgekit.quant.plan import MeasuredKl
from edgekit.report import charts, maps
from edgekit.report.data import AblationRow, ReportData, TensorRow, bits_per_weight, tensor_rows
from edgekit.report.markup import Child, document, fact, node, section

_ROLE_NAMES = {
    "embedding": "embedding",
    "head": "output head",
    "q": "query",
    "k": "key",
    "v": "value",
    "o": "attention output",
    "gate": "gate",
    "up": "up",
    "down": "down",
    "vectors": "norms and biases",
    "header": "header and tokenizer",
}


def write_report(path: Path, data: ReportData) -> Path:
    """Write the page to `path`, whole or not at all, and return `path`.

    Raises InputError where the folder cannot be written to, TargetError where the disk is full.
    """
    page = document(f"{data.path.name} · edgekit report", *_content(data))
    with atomic_write(path) as file:
        file.write(page.encode())
    return path


def _content(data: ReportData) -> Iterator[Child]:
    rows = tensor_rows(data)
    yield from _heading(data)
    yield _facts(data, rows)
    yield _speed(data)
    yield from _notes(data)
    yield node("div", _sensitivity(data), _widths(rows), class_="pair")
    yield _bytes(data, rows)
    yield node("div", _curve(data), _agreement(data), class_="pair")
    if data.ablation:
        yield _ablation(data.ablation)
    if data.seconds:
        bars = node("div", charts.stage_bars(data.seconds), class_="scroll")
        yield section("Seconds per stage", _stages_text(data), bars)
    yield _tensors(rows)
    yield _footer(data)


def _heading(data: ReportData) -> list[Element]:
    spec = data.spec
    heads = f"{_heads(spec.heads)} query and {_heads(spec.kv_heads)} KV heads"
    shape = f"{spec.family}, {spec.layers} layers, {spec.hidden} wide, {heads}"
    tail = f"vocabulary {spec.vocab:,}, context {spec.context:,}"
    return [
        node("p", "edgekit quantisation report", class_="over"),
        node("h1", data.path.name),
        node("p", f"From {data.model}: {shape}, {tail}.", class_="lead"),
    ]


def _heads(counts: Sequence[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _facts(data: ReportData, rows: Sequence[TensorRow]) -> Element:
    weights = sum(row.weights for row in rows)
    share = (
        f"{100 * data.bytes / data.max_bytes:.1f} % of the {bytes_text(data.max_bytes)} budget"
        if data.max_bytes
        else None
    )
    within = f"limit {data.max_kl:g}, " if data.max_kl is not None else ""
    facts = [
        fact("File", bytes_text(data.bytes), f"{data.bytes:,} bytes", share),
        fact(
            "Bits per weight",
            f"{bits_per_weight(rows, data.plan.container):.2f}",
            f"{count_text(weights)} weights; matrices only",
        ),
        fact("KL predicted", kl_text(data.plan.kld_predicted), f"{within}nats per token"),
    ]
    if data.kld_measured is not None:
        facts.append(fact("KL measured", kl_text(data.kld_measured), "nats per token, on held-out calibration text"))
    if data.device is not None:
        speed = f"{data.device.tokens_per_s:.3g} tok/s"
        facts.append(fact("Decode, predicted", speed, data.device.title, "not measured; see below"))
    if data.seconds:
        facts.append(fact("Time taken", seconds_text(sum(data.seconds.values()))))
    return node("dl", *facts, class_="facts")


def _speed(data: ReportData) -> Element | None:
    """What bounds the predicted speed, in full."""
    if data.device is None:
        return None
    return node("p", f"{data.device.title}: {data.device.bound}.", class_="why speed")


def _notes(data: ReportData) -> list[Element]:
    return [node("p", note, class_="note") for note in data.notes]


def _sensitivity(data: ReportData) -> Element:
    width = maps.sensitivity_width(data)
    if width is None:
        return section("Sensitivity", "No statistics were taken for this plan, so no sensitivity is known.")
    why = f"KL predicted when this matrix alone is at {width} bits, in thousandths of a nat: what bits would buy where."
    return section(f"Sensitivity at {width} bits", why, maps.sensitivity_map(data, width))


def _widths(rows: Sequence[TensorRow]) -> Element:
    return section(
        "Bits by tensor",
        "The type that the plan gives each matrix, with the share of weights by width.",
        maps.width_map(rows),
    )


def _bytes(data: ReportData, rows: Sequence[TensorRow]) -> Element:
    groups: dict[str, list[TensorRow]] = {}
    for row in rows:
        groups.setdefault(row.role if len(row.shape) == 2 else "vectors", []).append(row)
    order = [role for role in _ROLE_NAMES if role in groups] + sorted(set(groups).difference(_ROLE_NAMES))
    sizes = {role: sum(row.bytes for row in groups[role]) for role in order}
    header = data.bytes - sum(sizes.values())
    shares = [(_ROLE_NAMES.get(role, role), role, sizes[role]) for role in order]
    shares.append((_ROLE_NAMES["header"], "header", max(0, header)))
    body = [_byte_line(role, groups[role], sizes[role], data.bytes) for role in order]
    body.append(_byte_line("header", [], header, data.bytes))
    titles = (
        ("Part", None),
        ("Tensors", "n"),
        ("Weights", "n"),
        ("Bytes", "n"),
        ("Share", "n"),
        ("Bits/weight", "n"),
        ("Types", None),
    )
    table = node("table", node("thead", _titles(titles)), node("tbody", *body), class_="bytes")
    why = "All bytes of the file, tensor padding included; the header holds the tokenizer and the metadata."
    return section("Where the bytes went", why, node("div", charts.byte_bar(shares), table, class_="scroll"))


def _byte_line(role: str, rows: Sequence[TensorRow], size: int, total: int) -> Element:
    weights = sum(row.weights for row in rows)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.format.upper()] = counts.get(row.format.upper(), 0) + 1
    types = ", ".join(
        f"{count} × {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    key = node(
        "svg",
        node("rect", width=11, height=11, rx=2, class_=role),
        class_="key",
        viewBox="0 0 11 11",
        aria_hidden="true",
    )
    return node(
        "tr",
        node("td", key, _ROLE_NAMES.get(role, role)),
        node("td", str(len(rows)) if rows else "", class_="n"),
        node("td", f"{weights:,}" if rows else "", class_="n"),
        node("td", f"{size:,}", class_="n"),
        node("td", f"{100 * size / total:.1f} %", class_="n"),
        node("td", f"{8 * size / weights:.2f}" if weights else "", class_="n"),
        node("td", types, class_="wrap"),
    )


def _curve(data: ReportData) -> Element:
    chart = charts.size_curve(data)
    if chart is None:
        return section("KL against size", "Only one plan was considered, so there is no curve.")
    why = "Predicted KL of the plans considered" + (
        ", with the measured ones as rings." if any(m.bytes for m in data.plan.measured) else "."
    )
    return section("KL against size", why, chart)


def _agreement(data: ReportData) -> Element:
    chosen = None
    if data.plan.kld_predicted is not None and data.kld_measured is not None:
        chosen = (data.plan.kld_predicted, data.kld_measured)
    chart = charts.agreement(data.plan.measured, chosen)
    if chart is None:
        return section(
            "Predicted against measured KL",
            "No KL was measured in this run; edgekit eval measures a file on your own text.",
        )
    why = (
        "Each dot is one class of matrices, or all of them, rounded to one width and measured; they correct the table. "
        "The marked point is this file."
    )
    return section("Predicted against measured KL", why, chart, _measurements(data.plan.measured))


def _measurements(measured: Sequence[MeasuredKl]) -> Element | None:
    """The dots of the chart as a table, folded."""
    if not measured:
        return None
    titles = (("Rounded", None), ("Predicted", "n"), ("Measured", "n"))
    body = [
        node(
            "tr",
            node("td", m.what),
            node("td", kl_text(m.predicted), class_="n"),
            node("td", kl_text(m.measured), class_="n"),
        )
        for m in measured
    ]
    table = node("table", node("thead", _titles(titles)), node("tbody", *body))
    return node("details", node("summary", "The measurements as a table"), node("div", table, class_="scroll"))


def _ablation(rows: Sequence[AblationRow]) -> Element:
    why = (
        "KL measured with one more step at a time, the last row being this file: dequantised weights in float32 on "
        "held-out calibration text. A runtime's own arithmetic is not in it."
    )
    return section("What each step is worth", why, node("div", charts.ablation_bars(rows), class_="scroll"))


def _titles(titles: Sequence[tuple[str, str | None]]) -> Element:
    return node("tr", *(node("th", title, class_=class_, scope="col") for title, class_ in titles))


def _stages_text(data: ReportData) -> str:
    return f"{seconds_text(sum(data.seconds.values()))} in all, on the machine that made the file."


def _tensors(rows: Sequence[TensorRow]) -> Element:
    titles = (
        ("Tensor", None),
        ("Shape", "n"),
        ("Type", None),
        ("Bytes", "n"),
        ("Bits/weight", "n"),
        ("KL predicted", "n"),
    )
    body = []
    for row in rows:
        shape = " × ".join(str(size) for size in row.shape)
        cells = (row.name, shape, row.format.upper(), f"{row.bytes:,}", f"{8 * row.bytes / row.weights:.2f}")
        kl = kl_text(row.kl) if row.kl is not None else "–"
        classes = ("name", "n", None, "n", "n", "n")
        body.append(
            node("tr", *(node("td", cell, class_=class_) for cell, class_ in zip((*cells, kl), classes, strict=True)))
        )
    table = node("table", node("thead", _titles(titles)), node("tbody", *body))
    summary = node("summary", node("h2", f"All {len(rows)} tensors"))
    return node("section", node("details", summary, node("div", table, class_="scroll")))


def _footer(data: ReportData) -> Element:
    lines = [
        "Predicted KL is a quadratic estimate from calibration statistics. Sizes are in units of 1000 bytes. "
        "Speeds are predictions from the device's profile, not measurements.",
        f"SHA-256 of {data.path.name}: {data.sha256}",
    ]
    return node("footer", *(node("p", line) for line in lines))
