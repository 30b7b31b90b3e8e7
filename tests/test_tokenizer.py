"""Tokenizers: the same ids from stock llama.cpp and from a GGUF header as from the `tokenizers` library."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models_random import SAMPLE, VOCAB, random_checkpoint
from multilingual import PARAGRAPHS, texts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgekit.export.gguf import write_gguf
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError
from edgekit.models.pretokenizers import PRE_TOKENIZERS, PreTokenizer, matching, read_patterns
from edgekit.models.tokenizer import TokenizerFiles, TokenType, load_tokenizer
from edgekit.models.tokenizer_gguf import read_gguf, read_metadata, tokenizer_metadata
from edgekit.quant.formats import format_of

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Where llama.cpp's own patterns stand for others only roughly: cased letters outside ASCII (src/llama-vocab.cpp).
APPROXIMATE = {"tekken", "gpt-4o"}


def byte_level(row: PreTokenizer) -> Tokenizer:
    """A small byte-level BPE tokenizer with that behaviour, trained on the paragraphs."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=row.ignore_merges))
    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in row.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        min_frequency=2,
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([text for text in PARAGRAPHS for _ in range(2)], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("    ", normalized=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece_type(*, prefix: bool) -> Tokenizer:
    """A small BPE tokenizer with byte fallback as converted SentencePiece models are: every split is a merge.

    Gemma's steps without a prefix, Llama 2's with one.
    """
    replace_spaces = normalizers.Replace(" ", "▁")
    trained = Tokenizer(models.BPE())
    trained.normalizer = replace_spaces
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]*"), "isolated")
    trained.train_from_iterator(
        PARAGRAPHS * 2, trainers.BpeTrainer(vocab_size=1500, min_frequency=2, show_progress=False)
    )
    learned = trained.get_vocab()
    characters = sorted(
        token for token in learned if len(token) == 1 and "\0" < token < "一"
    )  # the others fall back to bytes
    longer = [token for token in sorted(learned, key=lambda token: learned[token]) if len(token) > 1]
    kept: list[str] = []
    for token in longer:
        known = {*characters, *kept}
        if all(character in known for character in token):
            kept.append(token)
    names = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256)), *kept, *characters]
    vocabulary = {token: index for index, token in enumerate(names)}
    merges = [
        (token[:cut], token[cut:])
        for token in kept
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    if prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace_spaces])
    else:
        tokenizer.normalizer = replace_spaces
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<pad>"])
    tokenizer.add_tokens([AddedToken("<b>", normalized=False), AddedToken("\n\n\n\n", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with 4096 embedding rows, for the tokenizers to be put into."""
    return random_checkpoint(tmp_path_factory.mktemp("model"), "llama", layers=1, hidden=32)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Put a tokenizer into a copy of the model."""

    def put(tokenizer: Tokenizer | dict[str, Any], **config: Any) -> Path:
        target = tmp_path / "model"
        shutil.copytree(model, target, dirs_exist_ok=True)
        text = json.dumps(tokenizer) if isinstance(tokenizer, dict) else tokenizer.to_str()
        (target / "tokenizer.json").write_text(text, encoding="utf-8")
        (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return target

    return put


def write_f16(folder: Path, path: Path) -> TokenizerFiles:
    """The checkpoint as an F16 GGUF."""
    checkpoint = open_checkpoint(folder)
    files = load_tokenizer(checkpoint)
    names = [tensor.name for tensor in checkpoint.tensors if len(tensor.shape) == 2]
    blocks = ((name, format_of("f16").encode(checkpoint.read(name), None)) for name in names)
    write_gguf(checkpoint, files, blocks, dict.fromkeys(names, "f16"), path)
    return files


def llama_ids(path: Path, strings: list[str]) -> list[list[int]]:
    """Ids from stock llama.cpp, special tokens recognised, without BOS."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    ids = [model.tokenize(text.encode(), add_bos=False, special=True) for text in strings]
    model.close()
    return ids


def ids(files: TokenizerFiles, strings: list[str]) -> list[list[int]]:
    return [files.tokenizer.encode(text, add_special_tokens=False).ids for text in strings]


def check_same_ids(folder: Path, path: Path, strings: list[str]) -> TokenizerFiles:
    """Write, then compare three ways; returns the folder's tokenizer."""
    files = write_f16(folder, path)
    expected = ids(files, strings)
    again = read_gguf(path)
    assert ids(again, strings) == expected
    for text, wanted in zip(strings, expected, strict=True):  # by a part of the vocabulary that is good for the text
        assert again.build(text).encode(text, add_special_tokens=False).ids == wanted
    assert llama_ids(path, strings) == expected
    same = replace(again, end_ids=files.end_ids)
    assert same == files
    return files


def test_sample(tmp_path: Path) -> None:
    files = check_same_ids(SAMPLE, tmp_path / "model.gguf", texts())
    assert (files.kind, files.pre, files.bos, files.eos, files.add_bos, files.add_eos) == (
        "bpe",
        "gpt-2",
        0,
        1,
        True,
        False,
    )
    assert len(files.tokens) == VOCAB and files.types[:3] == (TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL)


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: str(row.names[0]))
def test_byte_level_styles(row: PreTokenizer, folder: Callable[..., Path], tmp_path: Path) -> None:
    strings = [text for text in texts() if row.names[0] not in APPROXIMATE or text.isascii()]
    files = check_same_ids(folder(byte_level(row), eos_token="<|im_end|>"), tmp_path / "model.gguf", strings)
    assert files.pre in matching(row.patterns)[0].names or files.pre in row.names
    assert files.eos == 2 and files.bos == 0  # bos from config.json
    assert files.tokens[1500:1503] == ("<tool>", "    ", "[PAD1502]") or "<tool>" in files.tokens
    assert files.types[-1] == TokenType.UNUSED and len(files.tokens) == VOCAB
    assert files.types[files.tokens.index("<tool>")] == TokenType.USER_DEFINED


@pytest.mark.parametrize("prefix", [False, True], ids=["gemma", "llama2"])
def test_sentencepiece_styles(prefix: bool, folder: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = sentencepiece_type(prefix=prefix)
    files = check_same_ids(
        folder(tokenizer, bos_token="<s>", eos_token={"content": "</s>"}, unk_token="<unk>", pad_token="<pad>"),
        tmp_path / "model.gguf",
        texts(),
    )
    assert (files.kind, files.bos, files.eos, files.unk, files.pad) == ("spm", 1, 2, 0, 3)
    assert files.add_bos and not files.add_eos and files.add_space_prefix == prefix and not files.merges
    assert files.types[4:260] == (TokenType.BYTE,) * 256
    assert files.types[:4] == (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.CONTROL)
    assert any(index in range(4, 260) for line in ids(files, ["敏捷"]) for index in line)  # falls back to bytes


def test_sentencepiece_model_without_tokenizer_json(folder: Callable[..., Path], tmp_path: Path) -> None:
    """Converted by transformers: the ids of SentencePiece itself."""
    sentencepiece = pytest.importorskip("sentencepiece")
    target = folder(
        byte_level(PRE_TOKENIZERS[0]),
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    (target / "tokenizer.json").unlink()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in PARAGRAPHS * 2 for line in text.splitlines() if line and "\0" not in line),
        model_prefix=str(target / "tokenizer"),
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    strings = [text for text in texts() if "<s>" not in text and "</s>" not in text and "<unk>" not in text]
    files = check_same_ids(target, tmp_path / "model.gguf", strings)
    original = sentencepiece.SentencePieceProcessor(model_file=str(target / "tokenizer.model"))
    assert ids(files, strings) == [original.encode(text) for text in strings]
    assert (files.kind, files.bos, files.eos, files.unk, files.add_space_prefix) == ("spm", 1, 2, 0, True)


def test_scores_follow_the_merges(folder: Callable[..., Path]) -> None:
    files = load_tokenizer(open_checkpoint(folder(sentencepiece_type(prefix=False))))
    score = dict(zip(files.tokens, files.scores, strict=True))
    learned = [token for token in files.tokens[260:] if len(token) > 1 and not token.startswith("[PAD")][:50]
    assert [score[token] for token in learned] == sorted((score[token] for token in learned), reverse=True)
    assert score["<unk>"] < min(score[token] for token in learned)


def test_nfc_text(folder: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = byte_level(next(row for row in PRE_TOKENIZERS if "qwen2" in row.names))
    tokenizer.normalizer = normalizers.NFC()  # llama.cpp has none: ids agree on text that is NFC already
    strings = [unicodedata.normalize("NFC", text) for text in texts()]
    files = check_same_ids(folder(tokenizer), tmp_path / "model.gguf", strings)
    assert files.pre == "qwen2"


def test_spellings_of_one_pattern() -> None:
    contraction = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    llama3 = contraction + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": llama3}, "behavior": "Removed", "invert": True}
    steps = {
        "type": "Sequence",
        "pretokenizers": [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}],
    }
    patterns = read_patterns(steps)
    assert not isinstance(patterns, str)
    assert [row.names[0] for row in matching(patterns)] == ["llama-bpe", "dbrx", "glm4"]
    digits = {"type": "Digits", "individual_digits": True}
    steps = {"type": "Sequence", "pretokenizers": [digits, {"type": "ByteLevel", "add_prefix_space": False}]}
    patterns = read_patterns(steps)
    assert not isinstance(patterns, str)
    assert [row.names[0] for row in matching(patterns)] == ["smollm"]


def test_ignore_merges_where_it_matters(folder: Callable[..., Path]) -> None:
    """A whole word that no merge reaches: llama.cpp's qwen2 would not find it."""
    row = next(row for row in PRE_TOKENIZERS if "qwen2" in row.names)
    description = json.loads(byte_level(row).to_str())
    description["model"]["ignore_merges"] = True
    assert load_tokenizer(open_checkpoint(folder(description))).pre == "qwen2"  # all reachable: no difference
    description["model"]["vocab"]["Ġunreachable"] = 2000
    with pytest.raises(InputError, match="Ġunreachable"):
        load_tokenizer(open_checkpoint(folder(description)))


def test_chat_template_and_end_tokens(folder: Callable[..., Path], tmp_path: Path) -> None:
    target = folder(
        byte_level(PRE_TOKENIZERS[0]), eos_token="<|endoftext|>", chat_template="{{ messages }}", add_bos_token=True
    )
    (target / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    files = load_tokenizer(open_checkpoint(target))
    assert files.chat_template == "{{ messages }}" and files.add_bos
    assert (files.eos, files.eot, files.end_ids) == (0, 2, {0, 1, 2})  # 1: config.json's
    (target / "generation_config.json").write_text('{"eos_token_id": [0, 300]}')
    assert load_tokenizer(open_checkpoint(target)).eot == 1  # neither reads like an end: llama.cpp must be told
    (target / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    (target / "chat_template.jinja").write_text("{{ bos_token }}")
    assert load_tokenizer(open_checkpoint(target)).chat_template == "{{ bos_token }}"
    write_f16(target, tmp_path / "model.gguf")
    again = read_gguf(tmp_path / "model.gguf")
    assert (again.chat_template, again.eot) == ("{{ bos_token }}", 2) and {0, 2} <= again.end_ids


def test_token_with_a_nul(folder: Callable[..., Path], tmp_path: Path) -> None:
    """llama.cpp would abort: "a" and "a" + NUL are the same to it."""
    tokenizer = byte_level(PRE_TOKENIZERS[0])
    tokenizer.add_tokens(["a\0"])
    index = tokenizer.token_to_id("a\0")
    files = write_f16(folder(tokenizer), tmp_path / "model.gguf")
    assert (files.tokens[index], files.types[index]) == (f"[PAD{index}]", TokenType.UNUSED)
    assert llama_ids(tmp_path / "model.gguf", ["banana"]) == ids(files, ["banana"])


def test_more_tokens_than_rows(folder: Callable[..., Path]) -> None:
    tokenizer = byte_level(PRE_TOKENIZERS[0])
    tokenizer.add_tokens([f"<extra{index}>" for index in range(VOCAB)])
    with pytest.raises(InputError, match="embedding only 4096 rows"):
        load_tokenizer(open_checkpoint(folder(tokenizer)))


def test_image_placeholder_without_a_row(folder: Callable[..., Path]) -> None:
    tokenizer = byte_level(PRE_TOKENIZERS[0])
    fill = [f"<extra{index}>" for index in range(VOCAB - tokenizer.get_vocab_size())]
    tokenizer.add_tokens([*fill, "<image_soft_token>"])
    files = load_tokenizer(open_checkpoint(folder(tokenizer)))
    assert len(files.tokens) == VOCAB and "<image_soft_token>" not in files.tokens


def set_in(description: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    place = description
    for key in parents:
        place = place[key]
    place[last] = value
    return description


@pytest.mark.parametrize(
    ("style", "path", "value", "message"),
    [
        ("bpe", "model.type", "Unigram", "Unigram"),
        ("bpe", "normalizer", {"type": "Lowercase"}, "Lowercase"),
        ("bpe", "pre_tokenizer", {"type": "Whitespace"}, "ByteLevel"),
        (
            "bpe",
            "pre_tokenizer",
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "prefix space",
        ),
        (
            "bpe",
            "pre_tokenizer.pretokenizers",
            [{"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}],
            "ByteLevel",
        ),
        ("bpe", "model.merges", [["a"]], "not a usable tokenizer"),
        ("bpe", "model.end_of_word_suffix", "</w>", "end_of_word_suffix"),
        ("bpe", "model", None, "no model"),
        ("spm", "normalizer", {"type": "NFKC"}, "NFKC"),
        ("spm", "normalizer", None, "spaces|Split"),
        ("spm", "model.ignore_merges", True, "skip the merges"),
    ],
)
def test_refused(style: str, path: str, value: Any, message: str, folder: Callable[..., Path]) -> None:
    tokenizer = byte_level(PRE_TOKENIZERS[0]) if style == "bpe" else sentencepiece_type(prefix=False)
    description = set_in(json.loads(tokenizer.to_str()), path, value)
    with pytest.raises(InputError, match=message):
        load_tokenizer(open_checkpoint(folder(description)))


def test_unknown_pattern_is_named(folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"\[aeiou\]\+"):
        load_tokenizer(open_checkpoint(folder(byte_level(PreTokenizer(("x",), ("[aeiou]+",))))))


def test_merges_that_scores_cannot_carry(folder: Callable[..., Path]) -> None:
    """Trained pair by pair: llama.cpp would also join pairs that are no merge."""
    description = json.loads(sentencepiece_type(prefix=False).to_str())
    merges = description["model"]["merges"]
    token = next("".join(pair) for pair in merges if sum("".join(other) == "".join(pair) for other in merges) > 1)
    first = next(pair for pair in merges if "".join(pair) == token)
    description["model"]["merges"] = [pair for pair in merges if "".join(pair) != token or pair == first]
    with pytest.raises(InputError, match="do not merge although"):
        load_tokenizer(open_checkpoint(folder(description)))
    rest = [pair for pair in merges if pair != first]
    description["model"]["merges"] = [*rest, first]
    with pytest.raises(InputError, match="do not follow each other"):
        load_tokenizer(open_checkpoint(folder(description)))


def test_missing_and_damaged_files(folder: Callable[..., Path]) -> None:
    target = folder(byte_level(PRE_TOKENIZERS[0]), bos_token="<nowhere>")
    with pytest.raises(InputError, match="<nowhere>"):
        load_tokenizer(open_checkpoint(target))
    (target / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"tokenizer_config\.json"):
        load_tokenizer(open_checkpoint(target))
    (target / "tokenizer_config.json").unlink()
    (target / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": "b"}}}')
    with pytest.raises(InputError, match=r"tokenizer\.json is not a usable tokenizer"):
        load_tokenizer(open_checkpoint(target))
    (target / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_tokenizer(open_checkpoint(target))
    (target / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load_tokenizer(open_checkpoint(target))


def test_damaged_metadata() -> None:
    files = load_tokenizer(open_checkpoint(SAMPLE))
    good = tokenizer_metadata(files)
    source = Path("x.gguf")
    assert read_metadata(good, source) == files
    for key, value, message in [
        ("model", "t5", "'t5'"),
        ("tokens", None, "tokens"),
        ("tokens", ["a"] * VOCAB, "twice"),
        ("token_type", [1], "numbers of types"),
        ("merges", ["x y z"], "unknown tokens"),
        ("pre", "no-such", "'no-such'"),
    ]:
        with pytest.raises(InputError, match=message):
            read_metadata({**good, f"tokenizer.ggml.{key}": value}, source)
