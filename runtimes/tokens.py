"""The text side of a session whose runtime knows tokens alone: the file's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from edgekit.models.vocabulary import TokenizerFiles, TokenType


class Tokens:
    """Bytes and ids as a `Session` has them; the tokenizer is opened at its first use: tokens alone do not need it."""

    def __init__(self, open_tokenizer: Callable[[], TokenizerFiles]) -> None:
        self._open_tokenizer = open_tokenizer

    @cached_property
    def _files(self) -> TokenizerFiles:
        return self._open_tokenizer()

    @property
    def bos(self) -> int | None:
        return self._files.bos if self._files.add_bos else None

    @property
    def eos(self) -> int | None:
        return self._files.eos

    @property
    def end_tokens(self) -> frozenset[int]:
        return self._files.end_ids

    @property
    def chat_template(self) -> str | None:
        return self._files.chat_template

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        tokenizer = self._files.build(text)
        tokenizer.encode_special_tokens = not special
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode_bytes(self, token: int) -> bytes:
        text, kind = self._files.tokens[token], self._files.types[token]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED):
            return b""
        if kind == TokenType.BYTE:  # "<0x0A>"
            return bytes([int(text[1:-1], 16)])
        if kind == TokenType.USER_DEFINED:
            return text.encode()
        if self._files.kind == "spm":
            return text.replace("\u2581", " ").encode()
        return bytes(_BYTE_OF[character] for character in text)

    def token_text(self, token: int) -> str:
        return self._files.tokens[token]


def _byte_characters() -> dict[str, int]:
    """Byte-level BPE's spelling of bytes (GPT-2's): printable Latin-1 is itself, the rest follow at 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_characters()
