"""The page of a benchmark: verdict, figures, charts, and what was run where; parts of it serve two side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from edgekit.devices.interval import FEWEST
from edgekit.devices.result import BenchResult, Quantiles, Sample, Summary
from edgekit.figures import bytes_text
from edgekit.report import bench_charts as charts
from edgekit.report.markup import Child, document, fact, node, section, table

FIGURES = (("load_s", "Load", "s"), ("ttft_s", "First token", "s"), ("prefill_tps", "Prefill", "tokens/s"),
            ("decode_tps", "Decode", "tokens/s"))  # fmt: skip


def bench_page(result: BenchResult) -> str:
    """A self-contained HTML page (inline SVG and CSS, no scripts)."""
    return document(f"{marked(result.emulated)}{model_name(result)} · edgekit benchmark", *_bench(result))


def marked(emulated: bool) -> str:
    return "EMULATED · " if emulated else ""


def model_name(result: BenchResult) -> str:
    return Path(result.model.path).name


def _bench(result: BenchResult) -> Iterator[Child]:
    yield node("p", "edgekit benchmark", class_="over")
    yield node("h1", model_name(result))
    yield node("p", f"{where(result)}, {how(result)}. {result.date}.", class_="lead")
    yield emulation(result)
    yield verdict(result.status, result.status, result.reasons)
    yield _facts(result)
    yield _figures(result.summary)
    yield _tokens(result)
    yield node("div", _repetitions(result), _predicted(result), class_="pair")
    yield timeline(result, {f"repetition {rep}": sample for rep, sample in enumerate(result.samples, 1)})
    yield node("div", _memory(result), _types(result), class_="pair")
    yield what_ran((result,))
    yield footer((result,))


def where(result: BenchResult) -> str:
    processor = result.machine.cpu or "an unknown processor"
    if result.device is None:
        return f"On the machine that asked, {processor}"
    return f"On {result.device.target} ({result.device.model or 'model not told'}, {processor})"


def how(result: BenchResult) -> str:
    config = result.config
    return (
        f"{result.build.runtime} runtime, {config.threads} threads, {config.prompt_tokens} tokens of prompt, "
        f"{config.gen_tokens} generated, {config.reps} repetitions"
    )


def emulation(result: BenchResult) -> Element | None:
    if not result.emulated:
        return None
    why = result.device.emulated_why if result.device is not None else None
    return node(
        "p", f"EMULATED ({why or 'as its profile says'}): these times say nothing of a real device.", class_="emulated"
    )


def verdict(class_: str, words: str, reasons: Sequence[str]) -> Element:
    listed = node("ul", *(node("li", reason) for reason in reasons)) if reasons else None
    return node("div", node("strong", f"Verdict: {words}"), listed, class_=f"verdict {class_.replace(' ', '-')}")


def _facts(result: BenchResult) -> Element:
    summary, memory, told = result.summary, result.memory, result.predicted
    peak = "not known" if memory.peak_bytes is None else bytes_text(memory.peak_bytes)
    facts = [
        fact("Decode", f"{number_text(summary.decode_tps.median)} tok/s", _interval_note(summary.decode_tps)),
        fact("Prefill", f"{number_text(summary.prefill_tps.median)} tok/s", _interval_note(summary.prefill_tps)),
        fact("First token", f"{number_text(summary.ttft_s.median)} s", f"after {result.config.prompt_tokens} tokens"),
        fact("Load", f"{number_text(summary.load_s.median)} s", _cold(result)),
        fact("Peak memory", peak, "in a process of its own"),
    ]
    if told is not None:
        facts.append(fact("Decode, predicted", f"{number_text(told.decode_tps)} tok/s", f"bound by {told.bound_by}"))
    return node("dl", *facts, class_="facts")


def _cold(result: BenchResult) -> str:
    cold = next((sample.load_cold_s for sample in result.samples if sample.load_cold_s is not None), None)
    return "the file in the system's cache" if cold is None else f"cached; {cold:.3g} s from the disk"


def _interval_note(quantiles: Quantiles) -> str:
    return (
        f"fewer than {FEWEST} repetitions: no interval"
        if quantiles.ci95 is None
        else f"95 % of the median: {_interval(quantiles)}"
    )


def _interval(quantiles: Quantiles) -> str:
    if quantiles.ci95 is None:
        return "–"
    return " to ".join(map(number_text, quantiles.ci95))


def number_text(value: float) -> str:
    """Four significant digits, and no exponent."""
    if not math.isfinite(value):
        return "not a number"
    if 0 < abs(value) < 1e-3:
        return f"{value:.6f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _figures(summary: Summary) -> Element:
    rows = []
    for field, name, unit in FIGURES:
        found: Quantiles = getattr(summary, field)
        figures = map(number_text, (found.median, found.p10, found.p90, found.mad))
        rows.append((name, unit, *figures, _interval(found), str(found.n)))
    why = (
        "Over the repetitions. MAD: median absolute deviation from the median. The interval is the median's, by "
        "bootstrap; fewer than five repetitions tell none, and five or six no narrower one than their whole range."
    )
    titles = ("", "unit", "median", "p10", "p90", "MAD", "95 % interval", "n")
    return section("Figures", why, node("div", table(titles, rows), class_="scroll"))


def _tokens(result: BenchResult) -> Element:
    chart = charts.tokens(result.samples)
    why = "One line a repetition: a slope is the growing attention cache, a spike something else that ran."
    if chart is None:
        return section("Time of each token", "There are too few figures to draw.")
    return section("Time of each token", why, node("div", chart, class_="scroll"))


def _repetitions(result: BenchResult) -> Element:
    chart = charts.repetitions(result)
    if chart is None:
        return section("Decode by repetition", "There is no finite figure to draw.")
    return section("Decode by repetition", "The line is the median, the band its 95 % interval.", chart)


def _predicted(result: BenchResult) -> Element:
    told, chart = result.predicted, charts.predicted(result)
    if told is None or chart is None:
        why = result.unavailable.get("predicted", "the runtime, or the file, is not one that edgekit predicts")
        return section("Predicted beside measured", f"Nothing was predicted: {why}.")
    ratio = result.summary.decode_tps.median / told.decode_tps
    missing = (
        " The profile has no cycles_per_block, so that all arithmetic is in the difference."
        if told.compute_s is None
        else " Attention's own arithmetic, and what is done once a token, are in the difference."
    )
    found = f"Measured: {ratio:.0%} of the predicted speed, which {told.bound_by} bounds."
    why = f"{found} {_sentence(told.explanation)}{missing}"
    return section("Predicted beside measured", why, chart)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def timeline(result: BenchResult, taken: Mapping[str, Sample]) -> Element:
    """`taken`: the repetitions of all that ran, named."""
    found = charts.timeline(result, taken)
    if not found:
        why = result.unavailable.get("timeline", "nothing was seen of clocks, temperatures and load")
        return section("Timeline", f"There is none: {why}.")
    absent = [
        f"{what}: {result.unavailable.get(name, 'not told')}."
        for name, what in (("freq_hz", "Clocks"), ("temp_c", "Temperatures"), ("load", "Load"))
        if what not in {shown for shown, _, _ in found}
    ]
    drawn: list[Child] = []
    for what, names, chart in found:
        keys = [node("span", f" {name}", class_=f"t{index % charts.SERIES}") for index, name in enumerate(names)]
        drawn += [node("p", what, *(keys if len(keys) > 1 else ()), class_="why"), node("div", chart, class_="scroll")]
    seen = sorted({name for moment in result.timeline for name in moment.throttling or ()})
    if seen:
        drawn.append(
            node("p", f"Watched for throttling: {', '.join(seen)}. What it showed is in the verdict.", class_="why")
        )
    why = "Once a second, on the device. The shaded spans are the repetitions."
    return section("Timeline", " ".join([why, *absent]), *drawn)


def _memory(result: BenchResult) -> Element:
    chart = charts.memory(result)
    if chart is None:
        return section("Memory", f"It was not measured: {result.memory.reason or 'the system does not tell'}.")
    why = "Of a process of its own that loads the model and runs once, mapped pages of the file included."
    return section("Memory", why, chart)


def _types(result: BenchResult) -> Element:
    reads = result.reads
    rows = []
    for name, size in sorted(result.model.types.items(), key=lambda item: -item[1]):
        rows.append((name, bytes_text(size), "–" if reads is None else bytes_text(reads.weights.get(name, 0))))
    if reads is not None:
        rows.append(("attention cache, mean", "", bytes_text(reads.cache)))
    why = f"{result.model.path}, {result.model.bytes:,} bytes, by type; and what each decoded token reads of it."
    return section("The file", why, node("div", table(("type", "bytes", "read per token"), rows), class_="scroll"))


def what_ran(results: Sequence[BenchResult]) -> Element:
    """Device, build and configuration of one or two results, a column each."""
    columns = [_told(result) for result in results]
    names = dict.fromkeys(name for column in columns for name in column)  # in order, each once
    rows = [(name, *(column.get(name, "–") for column in columns)) for name in names]
    body = [
        node("tr", node("td", row[0]), *(node("td", cell, class_="wrap") for cell in row[1:]))
        for row in rows
        if any(cell != "–" for cell in row[1:])
    ]
    titles = [node("th", ""), *(node("th", side) for side in ("A", "B"))] if len(results) > 1 else []
    head = node("thead", node("tr", *titles)) if titles else None
    return section(
        "What ran where",
        "As device and program told it.",
        node("div", node("table", head, node("tbody", *body)), class_="scroll"),
    )


def _told(result: BenchResult) -> dict[str, str]:
    machine, build, config, device = result.machine, result.build, result.config, result.device
    cores = () if device is None else device.cores
    clocks = sorted({core.max_hz for core in cores if core.max_hz is not None})
    facts: dict[str, object] = {
        "run": f"{result.run_id}, {result.date}",
        "model": f"{result.model.path}, sha256 {result.model.sha256}",
        "device": None
        if device is None
        else f"{device.target} by {device.transport}, {device.model or 'model not told'}",
        "tags": None if device is None else ", ".join(device.tags),
        "emulated": f"yes: {device.emulated_why if device else ''}" if result.emulated else "no" if device else None,
        "processor": machine.cpu,
        "ISA": " ".join(machine.isa),
        "cores": f"{len(cores)}, {sum(core.big for core in cores)} of them big" if cores else str(machine.cores),
        "fastest clocks": ", ".join(f"{hz / 1e9:.2f} GHz" for hz in clocks),
        "cores used": None if config.affinity is None else ", ".join(map(str, config.affinity)),
        "threads": config.threads,
        "attention cache": config.cache_type,
        "RAM": f"{bytes_text(machine.ram_bytes)}, pages of {machine.page_bytes} bytes",
        "system": " ".join(filter(None, (machine.os, machine.kernel, device.machine if device else None))),
        "load before": machine.load_average,
        "slept": None if not result.suspended_s else f"{result.suspended_s:.1f} s",
        "edgekit": f"{build.edgekit}{f', commit {build.git}' if build.git else ''}",
        "runtime": f"{build.runtime} {build.runtime_version}",
        "compiler": " ".join(filter(None, (build.compiler, build.flags))),
        "kernels for": " ".join(build.isa_built),
        "program": None if build.sha256 is None else f"sha256 {build.sha256}",
        **{f"no {name}": why for name, why in result.unavailable.items()},
    }
    return {name: "–" if value in (None, "") else str(value) for name, value in facts.items()}


def footer(results: Sequence[BenchResult]) -> Element:
    lines = ["Sizes are in units of 1000 bytes. Predictions are estimates from the device's profile."]
    lines += [f"SHA-256 of {model_name(result)}: {result.model.sha256}" for result in results]
    return node("footer", *(node("p", line) for line in lines))
