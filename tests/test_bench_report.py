"""A benchmark as page, table and JSON: true to its figures, self-contained, and written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench_samples import REPS, comparison, device_result, plain_result, samples
from test_report import FETCHING, Page

from edgekit.devices.comparison import Comparison
from edgekit.devices.result import BenchResult, summarise
from edgekit.devices.stored import read_result
from edgekit.models.errors import InputError
from edgekit.report.bench import write
from edgekit.report.bench_charts import tokens
from edgekit.report.plot import Plot, thinned


def page(result: object, folder: Path) -> tuple[str, Page]:
    text = write(result, folder / "r.html").read_text(encoding="utf-8")
    return text, Page(text)


def broken() -> BenchResult:
    """No figure of it is finite."""
    bad = tuple(
        replace(s, decode_tps=math.nan, load_s=math.inf, prefill_tps=math.nan, inter_token_s=(math.nan,) * 15)
        for s in samples()
    )
    return replace(device_result(), samples=bad, summary=summarise(bad), status="invalid")


def unknown(comparison: Comparison) -> Comparison:
    """Of too few pairs for an interval."""
    short = replace(comparison.ratios.decode_tps, low=math.nan, high=math.nan)
    ratios = replace(comparison.ratios, decode_tps=short, load_s=replace(short, median=math.nan))
    return replace(comparison, ratios=ratios)


RESULTS = {
    "plain": plain_result(),
    "device": device_result(),
    "broken": broken(),
    "comparison": comparison(),
    "no gate": replace(comparison(1.0, None, None), paired=False),
    "no interval": unknown(comparison()),
    "broken comparison": replace(comparison(), a=broken()),
    "one repetition": plain_result(samples=samples()[:1], summary=summarise(samples()[:1])),
}


@pytest.mark.parametrize("name", RESULTS)
def test_pages_are_well_formed_and_fetch_nothing(name: str, tmp_path: Path) -> None:
    text, found = page(RESULTS[name], tmp_path)
    assert text.startswith("<!DOCTYPE html>") and [tag for tag, _ in found.tags].count("h1") == 1
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img" and root.findtext("title")
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    for _, attributes in found.tags:
        assert not FETCHING & attributes.keys() and not any(key.startswith("on") for key in attributes)
    assert "url(" not in text and "@import" not in text and "://" not in text and "nan" not in text.lower().split()


def test_the_page_tells_the_figures(tmp_path: Path) -> None:
    result = device_result(emulated=False)
    _, found = page(result, tmp_path)
    decode = result.summary.decode_tps
    assert decode.ci95 is not None
    shown = [f"{value:.4g}" for value in (decode.median, decode.p10, decode.p90, decode.mad, *decode.ci95)]
    shown += ["Verdict: degraded", result.reasons[0], "70.0 MB", "60.0 MB", "589.8 kB", "22 tok/s", "bound by compute"]
    shown += ["88% of the predicted speed", "0.9 s from the disk", "gcc 13", "dotprod", "2, 3", "shelf 3", "abc123"]
    for words in (*shown, result.run_id, result.model.sha256):
        assert words in found.text, words
    assert "EMULATED" not in found.text


def test_emulation_cannot_be_overlooked(tmp_path: Path) -> None:
    for result in (device_result(), replace(comparison(), b=device_result())):
        text, found = page(result, tmp_path)
        assert "EMULATED (DMI says QEMU): these times say nothing of a real device." in found.text
        assert re.search("<title>EMULATED", text) and '<p class="emulated">' in text


def test_what_there_is_not_has_a_reason(tmp_path: Path) -> None:
    _, found = page(plain_result(), tmp_path)
    assert "There is none: clocks and temperatures are watched with --device alone." in found.text
    assert "Nothing was predicted" in found.text
    moments = tuple(replace(moment, temp_c=None) for moment in device_result().timeline)
    told = {"temp_c": "there is no thermal zone"}
    _, found = page(device_result(timeline=moments, unavailable=told), tmp_path)
    assert "Temperatures: there is no thermal zone." in found.text
    nothing = replace(device_result().memory, peak_bytes=None, reason="it was killed")
    _, found = page(device_result(memory=nothing), tmp_path)
    assert "It was not measured: it was killed." in found.text


def test_a_comparison_tells_ratios_gate_and_outcome(tmp_path: Path) -> None:
    text, found = page(comparison(), tmp_path)
    for words in (
        "Verdict: regression (valid)",
        "-10.0 %",
        "0.890 to 0.910",
        "The dashed line is the gate: 5.0% slower",
        "They differ in model.",
    ):
        assert words in found.text, words
    assert text.count('class="limit"') == 2  # of prefill and decode, at which the gate looks
    assert "gate" not in page(RESULTS["no gate"], tmp_path)[1].text
    assert "B / A: not known to not known" in page(RESULTS["no interval"], tmp_path)[1].text
    assert "<title>B, 5</title>" in text  # its repetitions are shaded in the timeline too


def test_a_times_ratio_is_drawn_as_a_speed(tmp_path: Path) -> None:
    """B loads in twice the time: it is half as fast."""
    slow = comparison()
    slow = replace(slow, ratios=replace(slow.ratios, load_s=replace(slow.ratios.load_s, median=2.0, low=1.6, high=2.5)))
    text, _ = page(slow, tmp_path)
    assert "Load: 0.500, 0.400 to 0.625" in text


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script>&\"'<b>"
    result = device_result()
    result = replace(result, model=replace(result.model, path=evil), reasons=(evil,), unavailable={evil: evil})
    for each in (result, replace(comparison(), a=result, reasons=(evil,))):
        _, found = page(each, tmp_path)
        assert not {"script", "b"} & {tag for tag, _ in found.tags}


def rows(result: object, folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(write(result, folder / "r.csv").read_text())))


def test_the_table_has_a_row_for_each_repetition(tmp_path: Path) -> None:
    result = device_result()
    found = rows(result, tmp_path)
    assert [float(row["decode_tps"]) for row in found] == [sample.decode_tps for sample in result.samples]
    assert [row["repetition"] for row in found] == [str(number) for number in range(1, REPS + 1)]
    assert {row["model"] for row in found} == {"model.gguf"} and {row["emulated"] for row in found} == {"true"}
    assert [row["load_cold_s"] for row in found] == ["0.9", "", "", "", ""]
    both = rows(comparison(), tmp_path)
    assert [(row["side"], row["model"]) for row in both] == [("a", "model.gguf")] * 5 + [("b", "other.gguf")] * 5
    assert rows(broken(), tmp_path)[0]["decode_tps"] == ""


def test_json_is_what_is_read_back(tmp_path: Path) -> None:
    assert read_result(write(device_result(), tmp_path / "r.json")) == device_result()
    assert json.loads(write(comparison(), tmp_path / "c.JSON").read_text())["outcome"] == "regression"


@pytest.mark.parametrize("name", ["r.txt", "r", "r.html.gz", "nowhere/r.html"])
def test_where_it_cannot_be_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere" if "nowhere" in name else r"\.json, \.html, \.csv"):
        write(plain_result(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_points_lie_where_the_scales_put_them() -> None:
    plot = Plot.over([0, 10], [0, 100], width=158 + 12, height=160)  # 100 wide between the margins, 100 high
    dot = plot.dot(5, 50, "dot", "the middle")
    assert (float(dot.get("cx") or 0), float(dot.get("cy") or 0)) == (108, 64)
    band = plot.band(0, 50)
    assert float(band.get("height") or 0) == pytest.approx(50 / 1.12, rel=1e-3)  # 6 % of room above and below


def test_thinning_keeps_the_extremes() -> None:
    values = [1.0] * 1000
    values[437], values[438] = 50.0, 0.5
    places, kept = thinned(values, 100)
    assert len(kept) <= 102 and places == sorted(places)
    assert (437, 50.0) in zip(places, kept, strict=True) and (438, 0.5) in zip(places, kept, strict=True)
    assert thinned([3.0, 1.0], 2) == ([0, 1], [3.0, 1.0])


def test_a_long_run_stays_a_small_page() -> None:
    drawn = tokens(samples(reps=50, gen=5000))
    assert drawn is not None and len(ElementTree.tostring(drawn)) < 500_000
