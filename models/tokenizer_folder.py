"""Read the tokenizer of a Hugging Face folder: tokenizer.json and the configuration files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from edgekit.models.errors import InputError, MissingExtra
from edgekit.models.pretokenizers import matching, read_patterns
from edgekit.models.sentencepiece import check_merges, merge_scores, prepend_always, read_normalisation
from edgekit.models.vocabulary import TokenizerFiles, TokenType, named_ends

# Added tokens that stand for image embeddings: Gemma 3's text models list one without a row, and never look it up.
_IMAGE_PLACEHOLDERS = ("<image_soft_token>",)
# Texts that llama.cpp takes for an end of turn; one of these in generation_config.json's list is the EOT.
_END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>")
# Added tokens that models mark as ordinary although they are control tokens; llama.cpp warns of them.
_CONTROL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
_CONTROL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")


@dataclass(frozen=True)
class _Folder:
    """The parsed files; `source` names tokenizer.json in messages."""

    source: Path
    tokenizer: Tokenizer
    description: Mapping[str, Any]  # tokenizer.json
    config: Mapping[str, Any]  # tokenizer_config.json over special_tokens_map.json
    model_config: Mapping[str, Any]
    generation: Mapping[str, Any]
    chat_template: str | None


def read_folder(folder: Path, model_config: Mapping[str, Any], rows: int) -> TokenizerFiles:
    """The tokenizer of a Hugging Face folder, not padded; `rows` is the embedding's.

    Raises InputError where files are missing or damaged, and where stock llama.cpp has no tokenizer of that kind.
    """
    files = _open(folder, model_config)
    model = files.description["model"]
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(option):
            raise InputError(
                f"{files.source} uses {option}, which GGUF tokenizers lack: use a byte-level BPE tokenizer"
            )
    return _read_spm(files, rows) if model.get("byte_fallback") else _read_bpe(files, rows)


def _read_bpe(files: _Folder, rows: int) -> TokenizerFiles:
    merges = _merges(files)
    pre = _identify_pre(files, merges)
    tokens, types = _tokens(files, rows)
    return _finish(files, "bpe", tokens, types, merges=tuple(f"{left} {right}" for left, right in merges), pre=pre)


def _read_spm(files: _Folder, rows: int) -> TokenizerFiles:
    model, vocabulary = files.description["model"], files.description["model"]["vocab"]
    normalisation = read_normalisation(files.description)
    if isinstance(normalisation, str):
        raise InputError(f"{files.source} has {normalisation}, which llama.cpp lacks: use another tokenizer")
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    if missing:
        raise InputError(f"{files.source} lacks the byte token <0x{missing[0]:02X}>: byte fallback needs all 256")
    merges = _merges(files)
    added = {token["content"] for token in files.description.get("added_tokens", [])}
    problem = check_merges(vocabulary, merges, added, split_on_space=normalisation.split_on_space)
    if model.get("ignore_merges"):
        problem = "it lets whole words skip the merges"
    if problem:
        raise InputError(
            f"{files.source} cannot be given to llama.cpp as a SentencePiece-type tokenizer: {problem}: use another"
        )
    tokens, types = _tokens(files, rows)
    for index, token in enumerate(tokens):
        if types[index] == TokenType.NORMAL and len(token) == 6 and token.startswith("<0x"):
            types[index] = TokenType.BYTE
    scores = merge_scores(tokens, merges)
    return _finish(files, "spm", tokens, types, scores=scores, add_space_prefix=normalisation.prefix)


def _finish(
    files: _Folder,
    kind: Any,
    tokens: list[str],
    types: list[int],
    *,
    scores: tuple[float, ...] = (),
    merges: tuple[str, ...] = (),
    pre: str = "default",
    add_space_prefix: bool = False,
) -> TokenizerFiles:
    """Add the special tokens and the template."""
    special = {name: _special_id(files, name, tokens) for name in ("bos", "eos", "unk", "pad")}
    listed, ends = _end_ids(files, special["eos"], len(tokens)), named_ends(tokens, types)
    if special["unk"] is not None and kind == "spm":
        types[special["unk"]] = TokenType.UNKNOWN
    return TokenizerFiles(
        build=lambda _: files.tokenizer,
        kind=kind,
        tokens=tuple(tokens),
        types=tuple(int(value) for value in types),
        scores=scores,
        merges=merges,
        pre=pre,
        **special,
        eot=_end_of_turn(tokens, listed - {special["eos"]}, ends),
        end_ids=listed | ends,
        add_bos=_adds(files, "bos", special["bos"], 0),
        add_eos=_adds(files, "eos", special["eos"], -1),
        add_space_prefix=add_space_prefix,
        chat_template=files.chat_template,
    )


def _identify_pre(files: _Folder, merges: list[tuple[str, str]]) -> str:
    """llama.cpp's name of the pre-tokenizer; InputError where it has none that behaves alike."""
    normaliser = (files.description.get("normalizer") or {}).get("type")
    if normaliser not in (None, "NFC"):  # llama.cpp knows no NFC either: text in another form gets other tokens there
        raise InputError(f"{files.source} has a {normaliser} normalizer, which llama.cpp lacks: use another tokenizer")
    patterns = read_patterns(files.description.get("pre_tokenizer"))
    if isinstance(patterns, str):
        raise InputError(f"{files.source} has {patterns}, which llama.cpp lacks: use another tokenizer")
    rows = matching(patterns)
    if not rows:
        raise InputError(f"{files.source} cuts words by {patterns}, which llama.cpp lacks: use another tokenizer")
    ignore_merges = bool(files.description["model"].get("ignore_merges"))
    exact = next((row for row in rows if row.ignore_merges == ignore_merges), None)
    if exact is not None:
        return exact.names[0]
    unreachable = _unreachable(files, merges)
    if unreachable is not None:
        raise InputError(
            f"{files.source} has the token {unreachable!r} that only whole words reach, and llama.cpp has no such "
            f"tokenizer for these patterns: use another tokenizer"
        )
    return rows[0].names[0]


def _unreachable(files: _Folder, merges: list[tuple[str, str]]) -> str | None:
    """A token that merges do not build; without one, `ignore_merges` changes nothing."""
    vocabulary = files.description["model"]["vocab"]
    plain = BPE(vocab=vocabulary, merges=merges)
    added = {token["content"] for token in files.description.get("added_tokens", [])}
    return next((token for token in vocabulary if token not in added and len(plain.tokenize(token)) != 1), None)


def _merges(files: _Folder) -> list[tuple[str, str]]:
    """Merges as pairs, from either of tokenizer.json's spellings (well formed: the library has read them)."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in files.description["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _tokens(files: _Folder, rows: int) -> tuple[list[str], list[int]]:
    """Every id's text and type; ids without a token become unused ones.

    So do tokens that hold a NUL: llama.cpp reads a token up to its first NUL and aborts where two are then the same.
    """
    vocabulary = files.tokenizer.get_vocab(with_added_tokens=True)
    added = files.tokenizer.get_added_tokens_decoder()
    for index, token in added.items():
        if index >= rows and token.content in _IMAGE_PLACEHOLDERS:
            vocabulary.pop(token.content)
    size = max(vocabulary.values(), default=-1) + 1
    if size > rows:
        raise InputError(
            f"{files.source} has token ids up to {size - 1} but the embedding only {rows} rows: "
            "use the tokenizer that the model was trained with"
        )
    tokens = [f"[PAD{index}]" for index in range(size)]
    types: list[int] = [TokenType.UNUSED] * size
    for text, index in vocabulary.items():
        if "\0" not in text:
            tokens[index], types[index] = text, TokenType.NORMAL
    for index, token in added.items():
        if index < size and types[index] == TokenType.NORMAL:
            types[index] = (
                TokenType.CONTROL if token.special or _looks_special(token.content) else TokenType.USER_DEFINED
            )
    return tokens, types


def _looks_special(text: str) -> bool:
    return text in _CONTROL_TEXTS or any(
        text.startswith(left) and text.endswith(right) for left, right in _CONTROL_BRACKETS
    )


def _special_id(files: _Folder, name: str, tokens: list[str]) -> int | None:
    """The id of a special token: by its text in the tokenizer's files, else by the id in the model's."""
    entry = files.config.get(f"{name}_token")
    text = entry.get("content") if isinstance(entry, Mapping) else entry
    if isinstance(text, str):
        index = files.tokenizer.token_to_id(text)
        if index is None:
            raise InputError(
                f"{files.source} lacks the {name} token {text!r} that the files beside it name: complete it"
            )
        return int(index)
    value = files.model_config.get(f"{name}_token_id")
    value = value[0] if isinstance(value, list) and value else value
    if name == "unk" and value is None:
        unknown = files.description["model"].get("unk_token")
        value = files.tokenizer.token_to_id(unknown) if unknown else None
    return value if isinstance(value, int) and 0 <= value < len(tokens) else None


def _end_ids(files: _Folder, eos: int | None, count: int) -> frozenset[int]:
    ends: set[Any] = {eos}
    for source in (files.generation, files.model_config):
        value = source.get("eos_token_id")
        ends.update(value if isinstance(value, list) else [value])
    return frozenset(index for index in ends if isinstance(index, int) and 0 <= index < count)


def _end_of_turn(tokens: list[str], listed: frozenset[int], known: frozenset[int]) -> int | None:
    """Of the ends listed besides EOS: one that reads like an end of turn, else one that llama.cpp would not know."""
    named = (index for text in _END_OF_TURN for index in listed if tokens[index] == text)
    return next(named, min((index for index in listed if index not in known), default=None))


def _adds(files: _Folder, name: str, index: int | None, position: int) -> bool:
    """Whether encoding adds the token: as tokenizer_config.json says, else as the post-processor does."""
    stated = files.config.get(f"add_{name}_token")
    if isinstance(stated, bool):
        return stated and index is not None
    ids = files.tokenizer.encode("", add_special_tokens=True).ids
    return bool(ids) and index is not None and ids[position] == index


def _open(folder: Path, model_config: Mapping[str, Any]) -> _Folder:
    source = folder / "tokenizer.json"
    config = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    if source.is_file():
        text = _text(source)
    elif (folder / "tokenizer.model").is_file():
        source = folder / "tokenizer.model"
        text = _convert(folder)
    else:
        raise InputError(f"{folder} has no tokenizer.json: put the model's tokenizer files there")
    description = _parse(source, text)
    if not isinstance(description.get("model"), dict) or not isinstance(
        description["model"].get("vocab"), (dict, list)
    ):
        raise InputError(f"{source} has no model with a vocabulary: download it again")
    kind = description["model"].get("type", "BPE")
    if kind != "BPE":
        raise InputError(f"{source} is a {kind} tokenizer: only BPE ones (byte-level or byte fallback) can be exported")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise InputError(f"{source} is not a usable tokenizer: {error}: download it again") from error
    _add_listed(source, tokenizer, config)
    return _Folder(
        source,
        tokenizer,
        description,
        config,
        model_config,
        _json(folder / "generation_config.json"),
        _chat_template(folder, config),
    )


def _add_listed(source: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the tokens that only tokenizer_config.json lists, as transformers does."""
    listed = config.get("added_tokens_decoder")
    for index, entry in sorted((int(key), value) for key, value in (listed or {}).items()):
        if tokenizer.token_to_id(entry["content"]) is None:
            flags = {
                key: entry[key] for key in ("lstrip", "rstrip", "normalized", "single_word", "special") if key in entry
            }
            tokenizer.add_tokens([AddedToken(entry["content"], **flags)])
        if tokenizer.token_to_id(entry["content"]) != index:
            raise InputError(
                f"{source} gives {entry['content']!r} another id than tokenizer_config.json: use matching files"
            )


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's (the default one where it names several)."""
    if (folder / "chat_template.jinja").is_file():
        return _text(folder / "chat_template.jinja")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _convert(folder: Path) -> str:
    """A sentencepiece tokenizer.model as the text of a tokenizer.json, converted by transformers."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra("transformers", "quantize") from error
    try:
        fast = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return json.dumps(prepend_always(json.loads(fast.backend_tokenizer.to_str())))
    except (ImportError, ValueError, OSError, AttributeError) as error:
        raise InputError(
            f"{folder / 'tokenizer.model'} could not be converted: put the model's tokenizer.json beside it"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    return _parse(path, _text(path)) if path.is_file() else {}


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: download it again")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}: download it again") from error
