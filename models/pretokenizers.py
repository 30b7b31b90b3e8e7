"""How byte-level BPE tokenizers cut text into words, and what llama.cpp calls each way (`tokenizer.ggml.pre`).

A row is a behaviour: patterns applied one after the other, each isolating its matches in the pieces that the one before
left. The names of a row behave alike in llama.cpp (src/llama-vocab.cpp, `llm_tokenizer_bpe`); the first is the one
written, the oldest where several fit. A tokenizer.json is identified by its patterns, never by its publisher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES
_SEED = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + _SPACES
_MINICPM5 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*" r"|\p{N}" + _CASED_TAIL
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}" + _CASED_TAIL
)
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    + _SPACES
)


@dataclass(frozen=True)
class PreTokenizer:
    """One behaviour: its names in llama.cpp, its patterns, and whether whole words skip the merges."""

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    ignore_merges: bool = False


PRE_TOKENIZERS: tuple[PreTokenizer, ...] = (
    PreTokenizer(
        ("gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "trillion", "granite-docling", "gigachat", "a.x-4.0"),
        (_GPT2,),
    ),
    PreTokenizer(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        (r"\p{N}", _GPT2),
    ),
    PreTokenizer(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), (_LLAMA3,), True
    ),
    PreTokenizer(("dbrx", "smaug-bpe", "chatglm-bpe"), (_LLAMA3,)),
    PreTokenizer(("glm4",), (_LLAMA3,), True),
    PreTokenizer(
        ("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "kormo", "hunyuan", "solar-open", "grok-2"), (_QWEN2,)
    ),
    PreTokenizer(("qwen35",), (_QWEN35,)),
    PreTokenizer(("tekken",), (_TEKKEN,), True),
    PreTokenizer(("gpt-4o", "llama4", "kanana2", "minimax-m2"), (_GPT4O,)),
    PreTokenizer(("deepseek-coder",), (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    PreTokenizer(("deepseek-v3", "hunyuan-dense", "joyai-llm"), (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3)),
    PreTokenizer(("seed-coder",), (_SEED,)),
    PreTokenizer(("minicpm5",), (r"\p{N}{1,3}", _MINICPM5), True),
    PreTokenizer(("default",), (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
)


def named(pre: str) -> PreTokenizer | None:
    """The behaviour that llama.cpp gives that name, or None where it is not in the table."""
    return next((row for row in PRE_TOKENIZERS if pre in row.names), None)


def matching(patterns: Sequence[str]) -> tuple[PreTokenizer, ...]:
    """The rows with those patterns; they differ in `ignore_merges` only."""
    wanted = [_canonical(pattern) for pattern in patterns]
    return tuple(row for row in PRE_TOKENIZERS if [_canonical(pattern) for pattern in row.patterns] == wanted)


def read_patterns(pre_tokenizer: Mapping[str, Any] | None) -> list[str] | str:
    """The patterns of a tokenizer.json's byte-level `pre_tokenizer`, or a string saying what llama.cpp lacks for it."""
    steps = [pre_tokenizer] if pre_tokenizer else []
    if pre_tokenizer and pre_tokenizer.get("type") == "Sequence":
        steps = list(pre_tokenizer.get("pretokenizers", []))
    if not steps or steps[-1].get("type") != "ByteLevel":
        return "a pre-tokenizer that does not end in ByteLevel"
    patterns: list[str] = []
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel":
            if step.get("add_prefix_space"):
                return "a ByteLevel pre-tokenizer that adds a prefix space"
            patterns += [_GPT2] if step.get("use_regex", True) else []
        elif kind == "Digits":
            patterns.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif kind == "Split" and _isolates(step) and "Regex" in step.get("pattern", {}):
            patterns.append(step["pattern"]["Regex"])
        else:
            return f"a {kind} pre-tokenizer of this form"
    return patterns


def _isolates(step: Mapping[str, Any]) -> bool:
    """Whether matches are pieces; dropping what lies between them is the same where nothing does."""
    return step.get("behavior") == "Isolated" or (step.get("behavior") == "Removed" and bool(step.get("invert")))


def _canonical(pattern: str) -> str:
    """One spelling for patterns that cut alike."""
    for spelling in (
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        "(?:'s|'S|'t|'T|'re|'RE|'Re|'rE|'ve|'VE|'Ve|'vE|'m|'M|'ll|'LL|'Ll|'lL|'d|'D)",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "(?i:[sdmt]|ll|ve|re)",
    ):
        pattern = pattern.replace(spelling, "(?i:contraction)")
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n").replace(r"\p{N}{1}", r"\p{N}")
    return pattern.removesuffix(r"|\s+")  # what no alternative matches is a piece of its own all the same
