"""The report of head pruning: which heads went, what each step cost, what the smaller model is worth in use."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

import numpy as np

from edgekit.figures import bytes_text, kl_text, seconds_text
from edgekit.pruned_heads import HeadsPruned
from edgekit.quant.removal import Round
from edgekit.report import charts
from edgekit.report.markup import document, fact, node, section, svg, table, text

_CELL, _GAP, _LEFT = 22.0, 5.0, 74.0
_STEPS = 7  # .h0 to .h6 in style.css


def pruning_page(pruned: HeadsPruned) -> str:
    """A self-contained HTML page (inline SVG and CSS, no scripts)."""
    spec = pruned.structure.spec
    shape = f"{spec.family}, {spec.layers} layers, {sum(spec.heads)} query heads in {sum(spec.kv_heads)} KV groups"
    return document(
        f"{pruned.path.name} · edgekit pruning report",
        node("p", "edgekit pruning report", class_="over"),
        node("h1", pruned.path.name),
        node("p", f"Pruned from a model of {shape}; scores: {pruned.options.score}.", class_="lead"),
        _facts(pruned),
        *(node("p", note, class_="note") for note in pruned.notes),
        section(
            "What is kept",
            "One row a layer, one square a query head, KV groups apart; the darker, the higher its score when it was "
            "last scored. Crossed squares went.",
            node("div", _map(pruned), class_="scroll"),
        ),
        _steps(pruned),
        _use(pruned),
        section(
            "Seconds per stage",
            f"{seconds_text(sum(pruned.seconds.values()))} in all, on the machine that pruned.",
            node("div", charts.stage_bars(pruned.seconds), class_="scroll"),
        ),
    )


def _facts(pruned: HeadsPruned) -> Element:
    structure, last = pruned.structure, pruned.quality[pruned.stage]
    facts = []
    if heads := sum(structure.removed("heads")):
        share = f"{100 * heads / sum(structure.spec.heads):.1f} %"
        groups = sum(structure.spec.kv_heads) - sum(structure.kv_heads)
        facts.append(
            fact("Query heads removed", f"{heads} of {sum(structure.spec.heads)}", f"{share}; {groups} KV groups")
        )
    if channels := sum(structure.removed("channels")):
        facts.append(fact("FFN channels removed", f"{100 * channels / sum(structure.spec.ffn):.1f} %", f"{channels:,}"))
    facts += [
        fact(
            "Next-token accuracy",
            f"{100 * pruned.top1_change(pruned.stage):+.2f} %",
            f"relative; {last.top1:.2%} in the end",
        ),
        fact("KL", kl_text(last.kl), "nats per token, on text that no step saw"),
        fact(
            "Cache", f"{_change(pruned.before.cache_bytes_per_token, pruned.after.cache_bytes_per_token)}", "per token"
        ),
        fact("Decode", _change(pruned.before.decode_tps, pruned.after.decode_tps), "tokens/s, on this machine"),
    ]
    return node("dl", *facts, class_="facts")


def _map(pruned: HeadsPruned) -> Element:
    structure, spec = pruned.structure, pruned.structure.spec
    mask = structure.head_mask()
    shades = _shades(pruned)
    drawn: list[Element] = []
    widest = 0.0
    for layer in range(spec.layers):
        y, x, size = layer * _CELL, _LEFT, spec.heads[layer] // spec.kv_heads[layer]
        drawn.append(text(f"layer {layer}", _LEFT - 10, y + 15, "small soft", "end"))
        for head in range(spec.heads[layer]):
            x += _GAP if head and head % size == 0 else 0
            drawn += _square(x, y, bool(mask[layer, head]), shades[layer, head], f"layer {layer}, head {head}")
            x += _CELL
        counts = f"{structure.heads[layer]} of {spec.heads[layer]} heads, {structure.kv_heads[layer]} KV"
        if structure.ffn[layer] != spec.ffn[layer]:
            counts += f", {structure.ffn[layer]} of {spec.ffn[layer]} channels"
        drawn.append(text(counts, x + 14, y + 15, "small soft"))
        widest = max(widest, x + 14 + 6.2 * len(counts))
    return svg(max(640.0, widest), spec.layers * _CELL, "Query heads kept and removed", *drawn)


def _square(x: float, y: float, kept: bool, shade: int, name: str) -> list[Element]:
    box = {"x": x + 1, "y": y + 1, "width": _CELL - 2, "height": _CELL - 2, "rx": 2.0}
    hint = node("title", name if kept else f"{name}: removed")
    if kept:
        return [node("rect", hint, class_=f"h{shade}", **box)]
    low, high, top, bottom = x + 6, x + _CELL - 6, y + 6, y + _CELL - 6
    lines = [(low, top, high, bottom), (low, bottom, high, top)]
    cross = [node("line", x1=a, y1=b, x2=c, y2=d, class_="cross") for a, b, c, d in lines]
    return [node("rect", hint, class_="none", **box), *cross]


def _shades(pruned: HeadsPruned) -> np.ndarray:
    """(layers, heads) the step of the scale that each kept head's last score ranks at."""
    mask = pruned.structure.head_mask()
    shades = np.zeros(mask.shape, int)
    costs = pruned.removal.rounds[-1].costs.heads[mask]
    shades[mask] = np.argsort(np.argsort(costs)) * _STEPS // len(costs)
    return shades


def _steps(pruned: HeadsPruned) -> Element:
    rows = [
        (
            stage,
            kl_text(judgement.kl),
            f"{math.exp(judgement.nll):.3f}",
            f"{judgement.top1:.2%}",
            f"{100 * pruned.top1_change(stage):+.2f} %",
        )
        for stage, judgement in pruned.quality.items()
    ]
    bars = [
        (f"round {number}", _went(taken), taken.judgement.kl)
        for number, taken in enumerate(pruned.removal.rounds, start=1)
    ]
    bars += [
        (stage, "", judgement.kl) for stage, judgement in pruned.quality.items() if stage not in ("unpruned", "pruned")
    ]
    return section(
        "What each step cost, and what was won back",
        "Against the unpruned model. The rounds' KL is of the windows by which choices are made, all else of windows "
        "that no step looked at.",
        node("div", _bars(bars), class_="scroll"),
        node("div", table(("", "KL, nats", "perplexity", "top-1", "relative"), rows), class_="scroll bytes"),
    )


def _went(taken: Round) -> str:
    """ "5 heads, 160 channels" """
    counts = {"heads": 0, "channels": 0}
    for unit in taken.units:
        counts["channels" if unit.kind == "channels" else "heads"] += len(unit.removed)
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _bars(rows: list[tuple[str, str, float]]) -> Element:
    largest = max((*(kl for _, _, kl in rows), 1e-300))
    drawn: list[Element] = []
    for index, (name, what, kl) in enumerate(rows):
        y, span = index * 26.0, max(1.0, 640 * kl / largest)
        drawn.append(text(f"{name} · {what}" if what else name, 210, y + 15, "soft", "end"))
        class_ = "bar last" if index == len(rows) - 1 else "bar"
        drawn.append(node("rect", x=222, y=y + 3, width=span, height=17, rx=1.5, class_=class_))
        drawn.append(text(kl_text(kl), 222 + span + 8, y + 15.5))
    return svg(1036, 26.0 * len(rows), "KL after each step", *drawn)


def _use(pruned: HeadsPruned) -> Element:
    """Bytes and speed before and after."""
    before, after = pruned.before, pruned.after

    def speed(name: str, attribute: str) -> tuple[str, ...]:
        old, new = (getattr(side, attribute) for side in (before, after))
        return name, f"{old:.1f}", f"{new:.1f}", _change(old, new)

    def size(name: str, attribute: str) -> tuple[str, ...]:
        old, new = (getattr(side, attribute) for side in (before, after))
        return name, bytes_text(old), bytes_text(new), _change(old, new)

    rows = [
        size("Q8_0 file", "file_bytes"),
        size("cache per token, float16", "cache_bytes_per_token"),
        size(f"cache of {before.prompt_tokens} tokens, as allocated", "cache_bytes"),
        speed(f"prefill of {before.prompt_tokens} tokens, tokens/s", "prefill_tps"),
        speed(f"decode of {before.generated_tokens}, tokens/s", "decode_tps"),
    ]
    why = "Q8_0 files of both models, run in turns by the native runtime on the machine that pruned; medians."
    content = node("div", table(("", "before", "after", "change"), rows), class_="scroll")
    return section("What it is worth in use", why, content)


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"
