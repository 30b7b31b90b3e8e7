"""What a tokenizer is: the tables that the `tokenizers` library and a GGUF header both need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`'s values."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Texts that llama.cpp takes for an end of generation whatever the header says (src/llama-vocab.cpp, special_eog_ids).
_END_TEXTS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>"),
        *("</s>", "<|eom_id|>", "<EOT>", "<|end_of_text|>", "<end_of_utterance>", "<eos>"),
    )
)


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer, as a runnable object and as the tables of a GGUF header. Token ids index `tokens` and `types`.

    kind "bpe" is byte-level BPE (GGUF's "gpt2": `merges` and `pre`), "spm" is BPE over characters with byte fallback as
    SentencePiece makes it (GGUF's "llama": `scores`, and `add_space_prefix`). `end_ids` are all tokens that end a
    generation, `eos` and `eot` among them. `build(None)` makes the runnable object, which takes seconds for a large
    vocabulary in a GGUF; `build(text)` makes one that is good for that text.
    """

    build: Callable[[str | None], Tokenizer] = field(compare=False)
    kind: Literal["bpe", "spm"]
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]  # spm only, else ()
    merges: tuple[str, ...]  # bpe only, else (): "left right"
    pre: str  # llama.cpp's name of the pre-tokenizer; "default" for spm
    bos: int | None
    eos: int | None
    eot: int | None
    unk: int | None
    pad: int | None
    end_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """`encode(text, add_special_tokens=False)` gives ids without BOS."""
        return self.build(None)

    def padded(self, rows: int, source: Path) -> TokenizerFiles:
        """With unused tokens up to the embedding's rows, as stock converters do; InputError on fewer rows."""
        missing = rows - len(self.tokens)
        if missing < 0:
            raise InputError(
                f"{source} has {len(self.tokens)} tokens but the embedding only {rows} rows: "
                "use the tokenizer that the model was trained with"
            )
        if not missing:
            return self
        names = tuple(f"[PAD{index}]" for index in range(len(self.tokens), rows))
        return replace(
            self,
            tokens=self.tokens + names,
            types=self.types + (int(TokenType.UNUSED),) * missing,
            scores=self.scores + (UNUSED_SCORE,) * missing if self.scores else (),
        )


UNUSED_SCORE = -1e6  # below the score of any merge


def named_ends(tokens: Sequence[str], types: Sequence[int]) -> frozenset[int]:
    """The control tokens at which llama.cpp ends a generation because of their text."""
    return frozenset(
        index for index, text in enumerate(tokens) if text in _END_TEXTS and types[index] == TokenType.CONTROL
    )
