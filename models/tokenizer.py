"""A checkpoint's tokenizer, from a Hugging Face folder or from a GGUF header."""

from __future__ import annotations

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.tokenizer_folder import read_folder
from edgekit.models.tokenizer_gguf import read_gguf
from edgekit.models.vocabulary import TokenizerFiles, TokenType

__all__ = ["TokenType", "TokenizerFiles", "load_tokenizer"]


def load_tokenizer(checkpoint: Checkpoint) -> TokenizerFiles:
    """The tokenizer of an opened checkpoint, Hugging Face folder or GGUF, padded to the embedding's rows.

    Raises InputError where it is missing, damaged, of a kind that GGUF cannot carry, or larger than the embedding.
    """
    path, rows = checkpoint.path, checkpoint.spec.vocab
    if path.is_dir():
        return read_folder(path, checkpoint.config, rows).padded(rows, path)
    return read_gguf(path).padded(rows, path)
