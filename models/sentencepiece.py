"""BPE with byte fallback, as SentencePiece makes it: a score per token stands for the list of merges.

llama.cpp joins the two neighbours whose concatenation has the highest score, whatever the two are; the `tokenizers`
library applies a ranked list of pairs. The two agree where every way to split a token into two tokens is a merge, and
where one token's merges follow each other in the list: then score = -rank. Converted SentencePiece models are so; a
tokenizer trained pair by pair need not be. What stays different: two overlapping ways to build the *same* token are
taken from the left by llama.cpp (as by SentencePiece itself) and by rank by `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.models.vocabulary import UNUSED_SCORE

SPACE = "▁"


@dataclass(frozen=True)
class Normalisation:
    """How text becomes symbols. Spaces always become ▁.

    `prefix`: a ▁ before the text. (A Metaspace step adds none before a text that begins with a space, and with its
    "first" scheme none after a special token; llama.cpp adds it in both cases, as SentencePiece does in the first.)
    """

    prefix: bool
    split_on_space: bool


def read_normalisation(description: Mapping[str, Any]) -> Normalisation | str:
    """A tokenizer.json's normalizer and pre-tokenizer, or a string saying what llama.cpp lacks for them."""
    prefix = replaced = split = False
    for step in _steps(description.get("normalizer"), "normalizers"):
        if step == {"type": "Prepend", "prepend": SPACE}:
            prefix = True
        elif step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE:
            replaced = True
        else:
            return f"a {step.get('type')} normalizer of this form"
    for step in _steps(description.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace" and step.get("replacement", SPACE) == SPACE:
            replaced = True
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            prefix, split = prefix or scheme != "never", bool(step.get("split", True))
        elif not (replaced and step.get("type") == "Split" and step.get("pattern") == {"String": " "}):
            return f"a {step.get('type')} pre-tokenizer of this form"  # a split at spaces finds none once they are ▁
    if not replaced:
        return "byte fallback without ▁ for spaces"
    return Normalisation(prefix, split)


def prepend_always(description: Mapping[str, Any]) -> dict[str, Any]:
    """A converted tokenizer.model's description with SentencePiece's (and llama.cpp's) prefix: before spaces too."""
    step = description.get("pre_tokenizer") or {}
    if description.get("normalizer") or step.get("type") != "Metaspace" or step.get("prepend_scheme") == "never":
        return dict(description)
    steps = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    split = {**step, "prepend_scheme": "never"} if step.get("split", True) else None
    return {**description, "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": split}


def check_merges(
    vocabulary: Collection[str], merges: Sequence[tuple[str, str]], added: Collection[str], *, split_on_space: bool
) -> str | None:
    """What keeps scores from standing for the merges, or None. Added tokens are matched before any merge."""
    pairs, last, done = set(merges), None, set()
    for left, right in merges:
        token = left + right
        if token != last and token in done:
            return f"its merges into {token!r} do not follow each other"
        done.add(token)
        last = token
    for token in vocabulary:
        if len(token) < 2 or token in added:
            continue
        if split_on_space and SPACE in token[1:]:
            return f"its token {token!r} spans words that it splits"
        for left, right in splits(token, vocabulary):
            if (left, right) not in pairs:
                return f"{left!r} and {right!r} do not merge although {token!r} is a token"
    return None


def splits(token: str, vocabulary: Collection[str]) -> Iterable[tuple[str, str]]:
    """The ways to cut a token into two symbols: single characters, or tokens."""
    for cut in range(1, len(token)):
        left, right = token[:cut], token[cut:]
        if (cut == 1 or left in vocabulary) and (cut == len(token) - 1 or right in vocabulary):
            yield left, right


def merge_scores(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> tuple[float, ...]:
    """A score per token: minus the order in which merges reach it, 0 for bytes and single characters.

    Integers up to 2**24 are exact in float32. Tokens that no merge reaches get a score below all others.
    """
    order: dict[str, int] = {}
    for left, right in merges:
        order.setdefault(left + right, len(order))
    return tuple(
        0.0 if len(token) == 1 else float(-order[token]) if token in order else UNUSED_SCORE for token in tokens
    )


def merges_from_scores(tokens: Mapping[str, float]) -> list[tuple[str, str]]:
    """The list of merges that scores stand for: by falling score, one token's splits by the ids of their parts."""
    ids = {token: index for index, token in enumerate(tokens)}
    ranked = sorted((token for token in tokens if len(token) > 1), key=lambda token: -tokens[token])
    merges: list[tuple[str, str]] = []
    for token in ranked:
        pairs = [(left, right) for left, right in splits(token, ids) if left in ids and right in ids]
        merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges


def _steps(step: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if not step:
        return []
    return list(step.get(key, [])) if step.get("type") == "Sequence" else [step]
