"""Malformed files end in one clear sentence each, from the native loader and from the commands that use it.

The files are the sample's with one thing wrong: cut, or with a field of the header that lies.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
from plain_files import write_plain

from edgekit.cli import main
from edgekit.models.errors import InputError
from edgekit.runtimes import native

U32, U64 = "<I", "<Q"
TENSORS = ("blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.3.attn_k.weight", "blk.7.ffn_down.weight")
REQUIRED = (
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.layer_norm_rms_epsilon",
)

Edit = tuple[int, bytes]  # where, and what is written there


def starts(field: gguf.ReaderField) -> list[int]:
    """Where each part of a key or of a tensor's description begins in the file."""
    places = [int(field.offset)]
    for part in field.parts:
        places.append(places[-1] + part.nbytes)
    return places


def counts(reader: gguf.GGUFReader) -> Iterator[tuple[str, str, Edit]]:
    """(label, word of the sentence, edit) of the 24 bytes that a file begins with."""
    yield "magic of a zip archive", "GGUF", (0, b"PK\3\4")
    yield "magic in small letters", "GGUF", (0, b"gguf")
    yield "bytes in the other order", "big-endian", (4, b"\0\0\0\3")
    for version in (0, 1, 4, 2**32 - 1):
        yield f"version {version}", "version", (4, struct.pack(U32, version))
    tensors, keys = len(reader.tensors), len(reader.fields) - 3  # the reader adds three of its own
    for place, name, right in ((8, "tensors", tensors), (16, "keys", keys)):
        for wrong in (0, right - 1, right + 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1):
            yield f"{wrong} {name} for {right}", "", (place, struct.pack(U64, wrong))


def tensor_fields(reader: gguf.GGUFReader) -> Iterator[tuple[str, str, Edit]]:
    for tensor in (tensor for tensor in reader.tensors if tensor.name in TENSORS):
        name_length, name, dimensions, shape, kind, offset, _ = starts(tensor.field)
        rows = int(tensor.shape[-1])
        wrong: list[tuple[str, int, str, tuple[int, ...]]] = [
            ("name length", name_length, U64, (0, 65, 2**32, 2**63, 2**64 - 1)),
            ("dimensions", dimensions, U32, (0, 5, 2**32 - 1)),
            ("columns", shape, U64, (0, 31, 2**31, 2**63, 2**64 - 1)),
            ("type", kind, U32, (4, 5, 99, 2**32 - 1)),
            ("offset", offset, U64, (1, 2**40, 2**63, 2**64 - 32)),
        ]
        if len(tensor.shape) == 2:
            wrong.append(("rows", shape + 8, U64, (0, rows - 1, rows + 1, 2**58, 2**64 - 1)))
        for what, place, code, values in wrong:
            for value in values:
                word = "" if what == "name length" else "tensor '"
                yield f"{tensor.name}: {what} {value}", word, (place, struct.pack(code, value))
        yield f"{tensor.name}: another name", tensor.name, (name, b"x")
        yield f"{tensor.name}: a zero in its name", "", (name, b"\0")


def key_fields(reader: gguf.GGUFReader) -> Iterator[tuple[str, str, Edit]]:
    for name in REQUIRED:
        name_length, text, kind, value = starts(reader.fields[name])[:4]
        yield f"{name}: name length", "", (name_length, struct.pack(U64, 2**62))
        yield f"{name}: another name", name, (text, b"X")
        yield f"{name}: a type that there is not", "", (kind, struct.pack(U32, 13))
        yield f"{name}: 0", name, (value, bytes(4))
        yield f"{name}: NaN, or {2**32 - 1}", name, (value, b"\xff" * 4)
    architecture = starts(reader.fields["general.architecture"])
    for length in (2**31, 2**63, 2**64 - 1):
        yield f"architecture of {length} bytes", "", (architecture[3], struct.pack(U64, length))
    yield "another architecture", "mamba", (architecture[4], b"mamba")
    tokens = starts(reader.fields["tokenizer.ggml.tokens"])  # ..., kind, kind of elements, count, elements
    for kind in (9, 13, 2**32 - 1):
        yield f"tokens of type {kind}", "", (tokens[3], struct.pack(U32, kind))
    for count in (2**32, 2**60, 2**64 - 1):
        yield f"{count} tokens", "", (tokens[4], struct.pack(U64, count))


def cuts(size: int, header: int) -> list[int]:
    """Lengths of cut files: in each field of the first 24 bytes, along the header, at its end and along the data."""
    along_header = [header * i // 13 for i in range(1, 13)]
    along_data = [header + (size - header) * i // 7 for i in range(1, 7)]
    return [0, 1, 3, 4, 7, 8, 12, 16, 20, 23, 24, 25, *along_header, header - 1, header, *along_data, size - 1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("whole") / "model.gguf", "q4_0")


class Damaged:
    """A file that is damaged in place, and mended by taking the damage back."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self._content = path, content
        path.write_bytes(content)

    def cut(self, length: int) -> None:
        self.path.write_bytes(self._content[:length])

    def edit(self, place: int, replacement: bytes) -> None:
        self.path.write_bytes(self._content[:place] + replacement + self._content[place + len(replacement) :])


def refusal(path: Path) -> str:
    """The sentence with which the file is refused."""
    with pytest.raises(InputError) as caught:
        native.load(path, context=64, threads=1)
    sentence = str(caught.value)
    assert sentence.count(str(path)) == 1 and "\n" not in sentence and sentence.isprintable(), sentence
    assert len(sentence) > len(str(path)) + 15, f"{sentence} says nothing"
    return sentence


def test_a_hundred_malformed_files(whole: Path, tmp_path: Path) -> None:
    content, reader = whole.read_bytes(), gguf.GGUFReader(whole)
    damaged = Damaged(tmp_path / "bad.gguf", content)
    native.load(damaged.path, context=64, threads=1).close()  # it is right before it is damaged
    sentences = {}
    for length in cuts(len(content), int(reader.data_offset)):
        damaged.cut(length)
        sentences[f"cut to {length} bytes"] = refusal(damaged.path)
    for label, word, edit in (*counts(reader), *tensor_fields(reader), *key_fields(reader)):
        assert content[edit[0] : edit[0] + len(edit[1])] != edit[1], f"{label} changes nothing"
        damaged.edit(*edit)
        sentences[label] = refusal(damaged.path)
        assert word in sentences[label], f"{label}: {sentences[label]}"
    assert len(sentences) >= 150
    assert len(set(sentences.values())) >= 80  # they tell one damage from another


COMMANDS = (["run", "-p", "Once"], ["bench", "--reps", "1"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_say_it_and_exit(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, reader = whole.read_bytes(), gguf.GGUFReader(whole)
    damaged = Damaged(tmp_path / "bad.gguf", content)
    edits = [edit for _, _, edit in (*counts(reader), *tensor_fields(reader), *key_fields(reader))]
    for edit in edits[:: len(edits) // 8]:
        damaged.edit(*edit)
        code = main([command[0], os.fspath(damaged.path), *command[1:]])
        told = capsys.readouterr()
        assert code == 2, told
        assert told.out == ""
        assert str(damaged.path) in told.err and "Traceback" not in told.err
