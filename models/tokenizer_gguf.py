"""The tokenizer in a GGUF header: write its keys, and rebuild a `tokenizers.Tokenizer` from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from edgekit.models.errors import InputError
from edgekit.models.gguf_header import read_header
from edgekit.models.pretokenizers import named
from edgekit.models.sentencepiece import SPACE, merges_from_scores
from edgekit.models.vocabulary import TokenizerFiles, TokenType, named_ends

_T = TypeVar("_T")
_MODELS = {"bpe": "gpt2", "spm": "llama"}
_LONG_TEXT = 100_000  # characters; the whole vocabulary costs less then
_MANY_LENGTHS = 256  # of tokens; real vocabularies have fewer
_SPECIAL_KEYS = {"bos": "bos", "eos": "eos", "eot": "eot", "unk": "unknown", "pad": "padding"}


def tokenizer_metadata(files: TokenizerFiles) -> dict[str, Any]:
    """The `tokenizer.*` keys with plain Python values, in the order that stock converters write them."""
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": _MODELS[files.kind],
        "tokenizer.ggml.pre": files.pre,
        "tokenizer.ggml.tokens": list(files.tokens),
    }
    if files.kind == "spm":
        metadata["tokenizer.ggml.scores"] = list(files.scores)
    metadata["tokenizer.ggml.token_type"] = list(files.types)
    if files.kind == "bpe":
        metadata["tokenizer.ggml.merges"] = list(files.merges)
    for name, key in _SPECIAL_KEYS.items():
        index = getattr(files, name)
        if index is not None:
            metadata[f"tokenizer.ggml.{key}_token_id"] = index
    metadata["tokenizer.ggml.add_bos_token"] = files.add_bos
    metadata["tokenizer.ggml.add_eos_token"] = files.add_eos
    if files.kind == "spm":
        metadata["tokenizer.ggml.add_space_prefix"] = files.add_space_prefix
    if files.chat_template:
        metadata["tokenizer.chat_template"] = files.chat_template
    return metadata


def read_gguf(path: Path) -> TokenizerFiles:
    """The tokenizer of a GGUF file; InputError where its header holds none, or one of another kind."""
    return read_metadata(read_header(path).metadata, path)


def read_metadata(metadata: Mapping[str, Any], source: Path) -> TokenizerFiles:
    """The tokenizer in a GGUF header's metadata; `source` names the file in messages."""
    model = _get(metadata, "model", str, source)
    kind = next((kind for kind, name in _MODELS.items() if name == model), None)
    if kind is None:
        raise InputError(f"{source} has a '{model}' tokenizer: only 'gpt2' and 'llama' ones can be read")
    tokens = _get(metadata, "tokens", list, source)
    types = _get(metadata, "token_type", list, source, [int(TokenType.NORMAL)] * len(tokens))
    scores = _get(metadata, "scores", list, source, []) if kind == "spm" else []
    merges = _get(metadata, "merges", list, source, []) if kind == "bpe" else []
    if len(types) != len(tokens) or (kind == "spm" and len(scores) != len(tokens)):
        raise InputError(f"{source} has {len(tokens)} tokens but other numbers of types or scores: download it again")
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{source} lists a token twice: download it again")
    pre = _get(metadata, "pre", str, source, "default")
    special = {name: _special(metadata, key, len(tokens)) for name, key in _SPECIAL_KEYS.items()}
    prefix = _get(metadata, "add_space_prefix", bool, source, kind == "spm")
    if kind == "spm":
        build = _spm_builder(tokens, scores, types, prefix)
    else:
        whole = _rebuild_bpe(tokens, merges, types, pre, source)
        build = lambda _: whole  # noqa: E731
    ends = {index for index in (special["eos"], special["eot"]) if index is not None}
    row = named(pre)
    return TokenizerFiles(
        build=build,
        kind="spm" if kind == "spm" else "bpe",
        tokens=tuple(tokens),
        types=tuple(types),
        scores=tuple(scores),
        merges=tuple(merges),
        pre=pre,
        **special,
        end_ids=frozenset(ends | named_ends(tokens, types)),
        # llama.cpp's defaults where the keys are missing
        add_bos=_get(
            metadata, "add_bos_token", bool, source, kind == "spm" or (row is not None and row.names[0] == "llama-bpe")
        ),
        add_eos=_get(metadata, "add_eos_token", bool, source, False),
        add_space_prefix=prefix,
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _rebuild_bpe(tokens: list[str], merges: list[str], types: list[int], pre: str, source: Path) -> Tokenizer:
    """Byte-level BPE with the pre-tokenizer that llama.cpp calls `pre`."""
    behaviour = named(pre)
    if behaviour is None:
        raise InputError(
            f"{source} has the pre-tokenizer '{pre}', which edgekit does not know: convert the original checkpoint"
        )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise InputError(f"{source} has the merge {merge!r} of unknown tokens: download it again")
        pairs.append((left, right))
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=pairs, ignore_merges=behaviour.ignore_merges))
    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in behaviour.patterns]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    _mark_added(tokenizer, zip(tokens, types, strict=True))
    return tokenizer


def _spm_builder(
    tokens: list[str], scores: list[float], types: list[int], prefix: bool
) -> Callable[[str | None], Tokenizer]:
    """BPE over characters with byte fallback, of all tokens or of those that a text can be cut into.

    All of 262,144 tokens make half a million merges and take seconds; a token that does not occur takes part in none.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    lengths = sorted(set(map(len, tokens)))

    def occurring(text: str) -> list[int]:
        found = {index for index, kind in enumerate(types) if kind in (TokenType.BYTE, TokenType.UNKNOWN)}
        spaced = text.replace(" ", SPACE)
        starts = ("", SPACE) if prefix else ("",)  # after an added token, too, a prefix comes
        for form in {text, spaced}:
            for length in lengths:
                for start in starts:
                    cut = length - len(start)
                    pieces = {start + form[place : place + cut] for place in range(len(form) - cut + 1)}
                    found.update(vocabulary[piece] for piece in pieces if piece in vocabulary)
        return sorted(found)

    def build(text: str | None) -> Tokenizer:
        whole = text is None or len(text) > _LONG_TEXT or len(lengths) > _MANY_LENGTHS
        chosen = range(len(tokens)) if whole or text is None else occurring(text)
        rows = [(tokens[index], index, scores[index], types[index]) for index in chosen]
        return _rebuild_spm(rows, prefix)

    return build


def _rebuild_spm(rows: list[tuple[str, int, float, int]], prefix: bool) -> Tokenizer:
    """Of tokens with their ids, scores and types, by rising id; merges follow from scores."""
    mergeable = {token: score for token, _, score, kind in rows if kind == TokenType.NORMAL}
    unknown = next((token for token, _, _, kind in rows if kind == TokenType.UNKNOWN), None)
    model = BPE(
        vocab={token: index for token, index, _, _ in rows},
        merges=merges_from_scores(mergeable),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=unknown,
    )
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefix else replace
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    _mark_added(tokenizer, ((token, kind) for token, _, _, kind in rows))
    return tokenizer


def _mark_added(tokenizer: Tokenizer, kinds: Iterable[tuple[str, int]]) -> None:
    """Tokens that are matched in the text before anything else."""
    special, plain = [], []
    for token, kind in kinds:
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == TokenType.USER_DEFINED:
            plain.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _get(metadata: Mapping[str, Any], key: str, kind: type[_T], source: Path, default: _T | None = None) -> _T:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, kind):
        raise InputError(f"{source} has no usable tokenizer.ggml.{key}: convert the original checkpoint again")
    return value


def _special(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}_token_id")
    return value if isinstance(value, int) and 0 <= value < count else None
