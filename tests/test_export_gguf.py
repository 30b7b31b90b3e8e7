"""GGUF files: exact sizes, the gguf library's view of them, the same bytes each time, never half a file."""

from __future__ import annotations

import random
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from models_random import LLAMA3, SAMPLE, VARIANTS, random_checkpoint, variant_id
from numpy.typing import NDArray

from edgekit.export import gguf as export
from edgekit.export.gguf import file_bytes, header_bytes, interleave, write_gguf
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.errors import InputError, TargetError
from edgekit.models.gguf_header import read_header
from edgekit.models.rope import rope_factors
from edgekit.models.spec import MATRIX_ROLES
from edgekit.models.tokenizer import TokenizerFiles, load_tokenizer
from edgekit.quant.formats import FORMATS, Blocks, format_of


@pytest.fixture(scope="module")
def sample() -> tuple[Checkpoint, TokenizerFiles]:
    checkpoint = open_checkpoint(SAMPLE)
    return checkpoint, load_tokenizer(checkpoint)


def matrices(checkpoint: Checkpoint) -> list[str]:
    return [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]


def mixed_formats(checkpoint: Checkpoint, seed: int) -> dict[str, str]:
    """A random format for each matrix, of those that can carry it."""
    generator = random.Random(seed)
    columns = {tensor.name: tensor.shape[-1] for tensor in checkpoint.tensors}
    return {
        name: generator.choice([format.name for format in FORMATS if format.carries(columns[name])])
        for name in matrices(checkpoint)
    }


def encoded(checkpoint: Checkpoint, formats: dict[str, str], seed: int = 0) -> Iterator[tuple[str, Blocks]]:
    """Every matrix in its format, in random order."""
    names = list(formats)
    random.Random(seed).shuffle(names)
    for name in names:
        yield name, format_of(formats[name]).encode(checkpoint.read(name), None)


@pytest.mark.parametrize("seed", range(3))
def test_the_gguf_library_reads_it_back(seed: int, sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    checkpoint, tokenizer = sample
    formats, path = mixed_formats(checkpoint, seed), tmp_path / "model.gguf"
    written = write_gguf(checkpoint, tokenizer, encoded(checkpoint, formats, seed), formats, path)
    assert written == path.stat().st_size == file_bytes(checkpoint, tokenizer, formats)
    reader = gguf.GGUFReader(path)
    assert [tensor.name for tensor in reader.tensors] == [tensor.gguf_name for tensor in checkpoint.tensors]
    assert reader.tensors[0].data_offset == header_bytes(checkpoint, tokenizer)
    for stored, tensor in zip(reader.tensors, checkpoint.tensors, strict=True):
        values = checkpoint.read(tensor.name)
        if tensor.role in MATRIX_ROLES:
            format = format_of(formats[tensor.name])
            assert stored.tensor_type == format.ggml_type
            values = format.decode(format.encode(values, None))
        expected = slow_interleave(values, tensor.rope_heads) + np.float32(tensor.offset)
        got = gguf.quants.dequantize(stored.data, stored.tensor_type).reshape(tensor.shape)
        assert np.array_equal(got, expected), tensor.name
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["general.name"].contents() == "sample"
    assert reader.fields["general.size_label"].contents() == "7.3M"
    assert reader.fields["tokenizer.ggml.tokens"].contents() == list(tokenizer.tokens)
    assert reader.fields["llama.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(1e-5)


def test_our_header_reader_agrees_with_the_library(sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    checkpoint, tokenizer = sample
    formats, path = mixed_formats(checkpoint, 5), tmp_path / "model.gguf"
    write_gguf(checkpoint, tokenizer, encoded(checkpoint, formats), formats, path)
    reader, header = gguf.GGUFReader(path), read_header(path)
    library = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == library
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert (ours.name, ours.offset, ours.ggml_type) == (theirs.name, theirs.data_offset, theirs.tensor_type)
        assert ours.shape == tuple(int(size) for size in theirs.shape[::-1])


def slow_interleave(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Row by row."""
    result = values.copy()
    size = len(values) // heads if heads else 0
    for head in range(heads):
        for row in range(size // 2):
            result[head * size + 2 * row] = values[head * size + row]
            result[head * size + 2 * row + 1] = values[head * size + size // 2 + row]
    return result


def test_interleave_is_the_converters_permutation() -> None:
    """Matrices, block rows and vectors; llama.cpp's conversion states it as reshape and swap too."""
    generator = np.random.default_rng(0)
    for shape, heads in [((24, 5), 3), ((8, 2), 1), ((24,), 2), ((6, 3), 0)]:
        values = generator.standard_normal(shape).astype(np.float32)
        assert np.array_equal(interleave(values, heads), slow_interleave(values, heads))


@pytest.mark.parametrize(
    ("family", "options"), [("gemma3", {}), ("qwen2", {"tied": False}), ("llama", {"scaling": LLAMA3})]
)
def test_what_families_add(family: str, options: dict[str, object], tmp_path: Path) -> None:
    """Norm offsets, biases, tied and untied heads, Llama 3's factors: exact sizes, and the values in the file."""
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", family, **options))
    tokenizer, path = load_tokenizer(checkpoint), tmp_path / "model.gguf"
    formats = dict.fromkeys(matrices(checkpoint), "f32")
    assert write_gguf(checkpoint, tokenizer, encoded(checkpoint, formats), formats, path) == path.stat().st_size
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    for tensor in checkpoint.tensors:
        expected = slow_interleave(checkpoint.read(tensor.name), tensor.rope_heads) + np.float32(tensor.offset)
        assert np.array_equal(stored[tensor.gguf_name].reshape(expected.shape), expected)
    assert ("output.weight" in stored) == (not checkpoint.spec.tied)
    factors = rope_factors(checkpoint.spec)
    assert ("rope_freqs.weight" in stored) == (factors is not None)
    assert factors is None or np.array_equal(stored["rope_freqs.weight"], factors)
    norm = stored["output_norm.weight"] - checkpoint.read("model.norm.weight")
    assert np.allclose(norm, 1.0 if family == "gemma3" else 0.0)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_a_gguf_as_input_gives_itself(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """Specification, tensors and tokenizer survive the way through a file bit for bit."""
    source = open_checkpoint(random_checkpoint(tmp_path / "model", variant[0], **variant[1]))
    formats = dict.fromkeys(matrices(source), "f32")
    write_gguf(source, load_tokenizer(source), encoded(source, formats), formats, tmp_path / "model.gguf")
    again, second = open_checkpoint(tmp_path / "model.gguf"), tmp_path / "second" / "model.gguf"
    second.parent.mkdir()
    write_gguf(again, load_tokenizer(again), encoded(again, formats), formats, second)
    assert second.read_bytes() == (tmp_path / "model.gguf").read_bytes()


@pytest.mark.parametrize("variant", [("qwen2", {}), ("gemma3", {})], ids=variant_id)
def test_trained_vectors_take_the_checkpoints_place(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """Norms with an offset and biases whose rows are interleaved come back as they were given."""
    source = open_checkpoint(random_checkpoint(tmp_path / "model", variant[0], **variant[1]))
    formats = dict.fromkeys(matrices(source), "f32")
    names = [tensor.name for tensor in source.tensors if tensor.role not in MATRIX_ROLES]
    vectors = {name: source.read(name) + np.float32(0.25) for name in names[::2]}
    path = tmp_path / "model.gguf"
    write_gguf(source, load_tokenizer(source), encoded(source, formats), formats, path, vectors=vectors)
    written = open_checkpoint(path)
    for name in names:
        assert np.allclose(written.read(name), vectors.get(name, source.read(name)), atol=1e-6), name


def test_a_hub_snapshot_goes_by_its_models_name(sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    folder = tmp_path / "models--owner--tiny-llama" / "snapshots" / "0123abc"
    shutil.copytree(SAMPLE, folder)
    checkpoint, formats = open_checkpoint(folder), dict.fromkeys(matrices(sample[0]), "q4_0")
    write_gguf(checkpoint, sample[1], encoded(checkpoint, formats), formats, tmp_path / "model.gguf")
    assert read_header(tmp_path / "model.gguf").metadata["general.name"] == "tiny-llama"


def test_same_input_same_bytes(sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    checkpoint, tokenizer = sample
    formats = mixed_formats(checkpoint, 1)
    for run in range(2):
        write_gguf(checkpoint, tokenizer, encoded(checkpoint, formats, run), formats, tmp_path / f"{run}.gguf")
    assert (tmp_path / "0.gguf").read_bytes() == (tmp_path / "1.gguf").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_write_leaves_what_was(
    error: type[BaseException], sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path
) -> None:
    checkpoint, tokenizer = sample
    formats, path = dict.fromkeys(matrices(checkpoint), "q4_0"), tmp_path / "model.gguf"

    def stops() -> Iterator[tuple[str, Blocks]]:
        yield next(encoded(checkpoint, formats))
        raise error

    with pytest.raises(error):
        write_gguf(checkpoint, tokenizer, stops(), formats, path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"the one before")
    with pytest.raises(error):
        write_gguf(checkpoint, tokenizer, stops(), formats, path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"the one before"


def test_missing_twice_or_wrong_tensors(sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    checkpoint, tokenizer = sample
    formats = dict.fromkeys(matrices(checkpoint), "q8_0")
    tensors = list(encoded(checkpoint, formats))
    wrong = [(tensors[0][0], tensors[0][1][:, :-1]), *tensors[1:]]
    for broken, error in [(tensors[:-1], AssertionError), ([*tensors, tensors[0]], KeyError), (wrong, AssertionError)]:
        with pytest.raises(error):
            write_gguf(checkpoint, tokenizer, broken, formats, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_formats_that_do_not_fit(sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    checkpoint, tokenizer = sample
    formats = dict.fromkeys(matrices(checkpoint), "q8_0")
    with pytest.raises(InputError, match=r"no matrix 'model\.norm\.weight'"):
        file_bytes(checkpoint, tokenizer, {**formats, "model.norm.weight": "f16"})
    with pytest.raises(InputError, match="unknown format 'q9_9'"):
        file_bytes(checkpoint, tokenizer, {**formats, "model.embed_tokens.weight": "q9_9"})
    formats.pop("model.embed_tokens.weight")
    with pytest.raises(InputError, match=r"no format is given for model\.embed_tokens"):
        file_bytes(checkpoint, tokenizer, formats)
    narrow = open_checkpoint(random_checkpoint(tmp_path / "model", "llama"))
    with pytest.raises(InputError, match="64 columns are no multiple of 256"):
        file_bytes(narrow, load_tokenizer(narrow), dict.fromkeys(matrices(narrow), "q4_k"))


def test_full_disk_is_told_before_any_work(
    sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, tokenizer = sample
    formats = dict.fromkeys(matrices(checkpoint), "f32")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(export.shutil, "disk_usage", lambda folder: usage(10**6, 10**6 - 1000, 1000))

    def never() -> Iterator[tuple[str, Blocks]]:
        raise AssertionError
        yield

    with pytest.raises(TargetError, match="1000 are free"):
        write_gguf(checkpoint, tokenizer, never(), formats, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_target_that_cannot_be_written(sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    checkpoint, tokenizer = sample
    formats = dict.fromkeys(matrices(checkpoint), "q8_0")
    for path in (tmp_path / "missing" / "model.gguf", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            write_gguf(checkpoint, tokenizer, encoded(checkpoint, formats), formats, path)


@pytest.mark.parametrize("length", [0, 3, 7, 20, 100, 5000, 60_000])
def test_truncated_headers(length: int, sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    checkpoint, tokenizer = sample
    formats, path = dict.fromkeys(matrices(checkpoint), "q4_0"), tmp_path / "model.gguf"
    write_gguf(checkpoint, tokenizer, encoded(checkpoint, formats), formats, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"model\.gguf"):
        read_header(path)


def test_lying_headers(sample: tuple[Checkpoint, TokenizerFiles], tmp_path: Path) -> None:
    """Each byte of the first keys set to 255: read, or refused with a sentence; never another error."""
    checkpoint, tokenizer = sample
    formats, path = dict.fromkeys(matrices(checkpoint), "q4_0"), tmp_path / "model.gguf"
    write_gguf(checkpoint, tokenizer, encoded(checkpoint, formats), formats, path)
    header = path.read_bytes()[: header_bytes(checkpoint, tokenizer)]
    refused = 0
    for place in [*range(400), *range(len(header) - 400, len(header))]:
        path.write_bytes(header[:place] + b"\xff" + header[place + 1 :])
        try:
            read_header(path)
        except InputError:
            refused += 1
    assert refused > 100
