"""The report: well-formed, self-contained, escaped, and true to its numbers."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_samples import sample_report

from edgekit.figures import bytes_text, count_text, kl_text, seconds_text
from edgekit.models.errors import InputError
from edgekit.quant.containers import GGUF
from edgekit.quant.formats import format_of
from edgekit.quant.plan import MeasuredKl
from edgekit.report import ReportData, write_report
from edgekit.report.charts import Scale, agreement, size_curve
from edgekit.report.data import bits_per_weight, plan_bits_per_weight, tensor_rows
from edgekit.report.maps import sensitivity_map, sensitivity_width

VOID = {"meta", "br", "img", "link", "input", "hr"}
FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def written(data: ReportData, folder: Path) -> str:
    return write_report(folder / "model.report.html", data).read_text(encoding="utf-8")


def without(data: ReportData, **plan_changes: object) -> ReportData:
    return dataclasses.replace(data, plan=dataclasses.replace(data.plan, **plan_changes))


@pytest.mark.parametrize("layers", [1, 8, 80])
def test_page_and_its_svgs_are_well_formed(layers: int, tmp_path: Path) -> None:
    text = written(sample_report(layers, tied=layers != 80), tmp_path)
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    labelled = [ElementTree.fromstring(drawing) for drawing in drawings if 'class="key"' not in drawing]
    assert len(labelled) == 7
    for drawing in labelled:
        assert drawing.get("role") == "img"
        assert drawing.findtext("title")
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    text = written(sample_report(), tmp_path)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    for _, attributes in page.tags:
        assert not FETCHING & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text and "@import" not in text and "://" not in text


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script>&\"'<b>\x00\x1b"
    data = sample_report(2)
    name = data.tensors[1].name
    tensors = tuple(dataclasses.replace(t, name=evil) if t.name == data.tensors[2].name else t for t in data.tensors)
    formats = {evil if key == data.tensors[2].name else key: value for key, value in data.plan.formats.items()}
    data = without(
        dataclasses.replace(data, tensors=tensors, model=evil, path=Path(evil.replace("/", ""))),
        formats=formats,
    )
    text = written(dataclasses.replace(data, seconds={evil: 1.0}, notes=(evil,)), tmp_path)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags} and "b" not in {tag for tag, _ in page.tags}
    assert "\x00" not in text and "\x1b" not in text
    assert name in page.text and "<script>alert(1)</script>" in page.text


def test_page_tells_the_numbers(tmp_path: Path) -> None:
    data = sample_report()
    text = Page(written(data, tmp_path)).text
    assert f"{data.bytes:,} bytes" in text
    assert "99.5 % of the" in text
    assert kl_text(data.plan.kld_predicted) in text and kl_text(data.kld_measured) in text
    assert "36.4 tok/s" in text and "Raspberry Pi 4B" in text and "(a prediction)" in text
    assert data.sha256 in text and "limit 0.005" in text
    for stage, seconds in data.seconds.items():
        assert stage in text and seconds_text(seconds) in text
    for tensor in data.tensors:
        assert tensor.name in text
    for row in data.ablation:
        assert row.step in text and row.what in text and kl_text(row.kl) in text and bytes_text(row.bytes) in text
    assert "· 36 %" in text  # the last row of the first
    for measured in data.plan.measured:
        assert measured.what in text and kl_text(measured.measured) in text


def test_rows_add_up_to_the_file() -> None:
    data = sample_report(3, vocab=1024)
    rows = tensor_rows(data)
    assert len(rows) == len(data.tensors)
    header = 120_000 + 16 * 1024
    assert sum(row.bytes for row in rows) + header == data.bytes
    assert sum(row.kl for row in rows if row.kl is not None) == pytest.approx(data.plan.kld_predicted)
    assert {row.format for row in rows if row.role == "norm"} == {"f32"}


def test_padding_counts_as_bytes_but_not_as_bits_per_weight() -> None:
    data = sample_report(1, hidden=64, ffn=64, vocab=33)
    data = without(data, formats=dict.fromkeys(data.plan.formats, "q4_0"))
    embedding = tensor_rows(data)[0]
    assert embedding.bytes == 1216 and 33 * 64 * 4.5 / 8 == 1188  # 32-byte alignment
    assert bits_per_weight(tensor_rows(data), GGUF) == 4.5


def test_bits_per_weight_of_a_plan_equals_that_of_its_file() -> None:
    data = sample_report(4)
    shapes = {tensor.name: tensor.shape for tensor in data.tensors}
    sensitivities = tuple(dataclasses.replace(s, shape=shapes[s.name]) for s in data.plan.sensitivities)
    plan = dataclasses.replace(data.plan, sensitivities=sensitivities)
    assert plan_bits_per_weight(plan) == pytest.approx(bits_per_weight(tensor_rows(data), GGUF))
    assert plan_bits_per_weight(dataclasses.replace(plan, sensitivities=())) is None
    uniform = dataclasses.replace(plan, sensitivities=(), formats=dict.fromkeys(plan.formats, "q5_1"))
    assert plan_bits_per_weight(uniform) == 6


def test_a_run_without_statistics_says_so(tmp_path: Path) -> None:
    data = without(sample_report(), sensitivities=(), curve=(), measured=(), kld_predicted=None)
    data = dataclasses.replace(
        data, kld_measured=None, max_bytes=None, max_kl=None, device=None, seconds={}, ablation=()
    )
    text = Page(written(data, tmp_path)).text
    assert "No statistics were taken" in text
    assert "no curve" in text and "No KL was measured" in text
    assert "each step" not in text and "KL measured" not in text and "Decode" not in text and "budget" not in text
    assert "not known" in text


def test_notes_are_shown(tmp_path: Path) -> None:
    notes = ("0.005 cannot be met", "zeros cost what other weights do")
    text = Page(written(dataclasses.replace(sample_report(), notes=notes), tmp_path)).text
    assert all(note in text for note in notes)


def test_sensitivity_map_compares_one_width() -> None:
    data = sample_report(2)
    assert sensitivity_width(data) == 4
    wide = tuple(
        dataclasses.replace(s, candidates=tuple(c for c in s.candidates if format_of(c.format).width >= 5))
        for s in data.plan.sensitivities
    )
    assert sensitivity_width(without(data, sensitivities=wide)) == 5
    first = data.plan.sensitivities[0]
    best = min(c.kl for c in first.candidates if format_of(c.format).width == 4)
    hints = [title.text for title in sensitivity_map(data, 4).iter("title")]
    assert f"embedding: {kl_text(best)} nats" in hints


def test_matrices_of_one_role_in_a_layer_share_a_cell() -> None:
    data = sample_report(1)
    twice = (*data.plan.sensitivities, dataclasses.replace(data.plan.sensitivities[1], name="another expert"))
    before = len(list(sensitivity_map(data, 4).iter("g")))
    assert len(list(sensitivity_map(without(data, sensitivities=twice), 4).iter("g"))) == before


def test_zero_and_single_values_do_not_break_the_charts(tmp_path: Path) -> None:
    data = sample_report(1)
    silent = tuple(
        dataclasses.replace(s, candidates=tuple(dataclasses.replace(c, kl=0.0) for c in s.candidates))
        for s in data.plan.sensitivities
    )
    curve = tuple(dataclasses.replace(point, kl=0.0) for point in data.plan.curve)
    rows = tuple(dataclasses.replace(row, kl=0.0) for row in data.ablation)
    data = without(data, sensitivities=silent, curve=curve, kld_predicted=0.0)
    data = dataclasses.replace(data, kld_measured=0.0, ablation=rows)
    Page(written(data, tmp_path))
    assert size_curve(data) is None


def test_points_lie_where_the_scales_put_them() -> None:
    chart = agreement([MeasuredKl("q at 4 bits", 0.01, 0.02)], (0.001, 0.1))
    assert chart is not None
    dots = {dot.get("class"): dot for dot in chart.iter("circle")}
    x = Scale(0.001 / 1.6, 0.1 * 1.6, 58.0, 488.0, log=True)
    assert float(dots["chosen"].get("cx") or 0) == pytest.approx(x.at(0.001), abs=0.01)
    assert float(dots["dot"].get("cx") or 0) == pytest.approx(x.at(0.01), abs=0.01)
    # Log-log with one range on both axes: equal steps along x and y are equal shares of the axes.
    y = Scale(0.001 / 1.6, 0.1 * 1.6, 284.0, 14.0, log=True)
    assert float(dots["dot"].get("cy") or 0) == pytest.approx(y.at(0.02), abs=0.01)


def test_the_curve_stays_inside_its_axes() -> None:
    for layers in (1, 8, 80):
        chart = size_curve(sample_report(layers))
        assert chart is not None
        for dot in chart.iter("circle"):
            assert 58 <= float(dot.get("cx") or 0) <= 488
            assert 14 <= float(dot.get("cy") or 0) <= 284


def test_an_unwritable_place_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        write_report(tmp_path / "nowhere" / "model.report.html", sample_report(1))
    assert not list(tmp_path.iterdir())


def test_two_writes_are_equal(tmp_path: Path) -> None:
    assert written(sample_report(), tmp_path) == written(sample_report(), tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.00612, "0.00612"), (0.0365, "0.0365"), (1.234, "1.23"), (12.0, "12.0"), (4.1e-4, "4.10 × 10⁻⁴"), (0.0, "0"),
     (None, "not known"), (float("nan"), "not known")],
)  # fmt: skip
def test_kl_text(value: float | None, expected: str) -> None:
    assert kl_text(value) == expected


def test_figures() -> None:
    assert (
        bytes_text(261_317_184) == "261.3 MB" and bytes_text(999) == "999 B" and bytes_text(4_000_000_000) == "4.00 GB"
    )
    assert count_text(7_344_384) == "7.34 M" and count_text(12) == "12"
    assert [seconds_text(s) for s in (0.42, 59.97, 83, 4000)] == ["0.42 s", "1 min 00 s", "1 min 23 s", "1 h 06 min"]
