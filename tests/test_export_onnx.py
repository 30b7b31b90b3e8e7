"""The ONNX graph in ONNX Runtime against the torch reference on the same rounded weights, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA, random_tensors, save_folder
from models_random import FAMILIES, SAMPLE, VARIANTS, VOCAB, random_checkpoint, variant_id
from numpy.typing import NDArray

from edgekit.export.gguf import write_gguf
from edgekit.export.onnx.options import OnnxOptions
from edgekit.measuring import Rounded
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.errors import InputError
from edgekit.models.spec import MATRIX_ROLES
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.candidates import fallback
from edgekit.quant.containers import ONNX
from edgekit.quant.formats import Blocks, format_of
from edgekit.runtimes import torch_reference

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'edgekit[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")

from edgekit.export.onnx import write  # noqa: E402
from edgekit.export.onnx.formats import BITS, codes_and_scales, packed  # noqa: E402
from edgekit.export.onnx.write import DATA, MODEL, write_onnx  # noqa: E402

LENGTH, DECODED = 120, 32  # longer than every sliding window of a gemma3 variant
TOLERANCE = 3e-5  # of the largest logit; measured: below 1e-5
FLOAT, PORTABLE = OnnxOptions(accuracy_level=1), OnnxOptions(portable=True)
flavours = pytest.mark.parametrize("options", [FLOAT, PORTABLE], ids=["fused", "portable"])


@dataclass(frozen=True)
class Rounding:
    """A checkpoint with a format for every matrix, and its blocks."""

    checkpoint: Checkpoint
    formats: dict[str, str]
    blocks: Iterable[tuple[str, Blocks]]

    def onnx(self, folder: Path, options: OnnxOptions = FLOAT) -> Path:
        tokenizer = load_tokenizer(self.checkpoint)
        made = write_onnx(self.checkpoint, tokenizer, self.blocks, self.formats, folder, options=options)
        assert made.bytes == sum(file.stat().st_size for file in folder.glob("model.onnx*"))
        return folder

    def gguf(self, path: Path) -> Path:
        write_gguf(self.checkpoint, load_tokenizer(self.checkpoint), self.blocks, self.formats, path)
        return path


def rounded(folder: Path, formats: Sequence[str], family: str = "llama", **options: Any) -> Rounding:
    """A random checkpoint with `round_in_turn`'s formats."""
    return round_in_turn(random_checkpoint(folder, family, **options), formats)


def round_in_turn(folder: Path, formats: Sequence[str]) -> Rounding:
    """A checkpoint whose matrices take the formats in turn; the embedding takes the first."""
    checkpoint = open_checkpoint(folder)
    names = [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    chosen = {name: formats[i % len(formats)] for i, name in enumerate(names)}
    return Rounding(checkpoint, chosen, list(Rounded(checkpoint).stream(chosen)))


class Model:
    """A graph in ONNX Runtime with a cache that grows by a copy at every step: slow and plain."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        # A DequantizeLinear and a MatMul become one MatMulNBits, with int8 activations unless they are asked to stay.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = ort.InferenceSession(folder / MODEL, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.cache = {
            f"past_key_values.{layer}.{part}": np.zeros((1, heads, 0, checkpoint.spec.head_dim), np.float32)
            for layer, heads in enumerate(checkpoint.spec.kv_heads)
            for part in ("key", "value")
        }
        self.length = 0

    def run(self, tokens: NDArray[np.int64], **more: NDArray[Any]) -> NDArray[np.float32]:
        """Append tokens (T,); the logits (T, vocab)."""
        self.length += len(tokens)
        mask = np.ones((1, self.length), np.int64)
        inputs = {"input_ids": tokens[None], "attention_mask": mask, **self.cache, **more}
        results = dict(zip(self.outputs, self.session.run(self.outputs, inputs), strict=True))
        logits = results.pop("logits")[0]
        self.cache = {name.replace("present", "past_key_values"): values for name, values in results.items()}
        return logits


def relative_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    assert np.abs(expected).max() > 1  # logits that would show a difference
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def check_logits(rounding: Rounding, folder: Path, options: OnnxOptions = FLOAT) -> None:
    """Prefill in two parts, then DECODED tokens one by one: the reference's logits at every position."""
    model = Model(rounding.onnx(folder / "onnx", options), rounding.checkpoint)
    length = min(LENGTH, rounding.checkpoint.spec.context)
    tokens = np.random.default_rng(1).integers(0, VOCAB, length)
    reference = torch_reference.load(rounding.gguf(folder / "model.gguf"), context=None, threads=1)
    expected = reference.score(tokens.tolist(), 0)
    prompt = length - DECODED
    logits = [model.run(tokens[: prompt - 10]), model.run(tokens[prompt - 10 : prompt])]
    logits += [model.run(tokens[position : position + 1]) for position in range(prompt, length)]
    assert relative_error(np.concatenate(logits), expected) < TOLERANCE


@flavours
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_logits_equal_torch(variant: tuple[str, dict[str, Any]], options: OnnxOptions, tmp_path: Path) -> None:
    family, choices = variant
    check_logits(
        rounded(tmp_path / "model", ("q8_0", "q4_0", "f16", "bf16", "f32"), family, **choices), tmp_path, options
    )


@flavours
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("format", ONNX.formats)
def test_every_format_in_every_place(format: str, tied: bool, options: OnnxOptions, tmp_path: Path) -> None:
    check_logits(rounded(tmp_path / "model", (format,), bias=True, tied=tied), tmp_path, options)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_padding_on_the_left_changes_nothing(family: str, tmp_path: Path) -> None:
    """In the portable graph: GroupQueryAttention knows sequences by their lengths, and is padded on the right."""
    rounding = rounded(tmp_path / "model", ("q8_0",), family)
    folder = rounding.onnx(tmp_path / "onnx", PORTABLE)
    tokens = np.random.default_rng(1).integers(0, VOCAB, 40)
    expected = Model(folder, rounding.checkpoint).run(tokens[10:])
    padded = Model(folder, rounding.checkpoint).run(tokens, attention_mask=(np.arange(40) >= 10).astype(np.int64)[None])
    assert relative_error(padded[10:], expected) < TOLERANCE


def test_the_portable_graph_is_of_standard_operators_alone(tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0", "q8_0", "f16"), "gemma3")
    model = onnx.load(rounding.onnx(tmp_path / "onnx", PORTABLE) / MODEL)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 23)]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("formats", [("q4_0", "q8_0"), ("q8_0", "q4_0")])
def test_onnx_runtime_multiplies_the_portable_graphs_blocks_as_they_are(
    formats: tuple[str, ...], tied: bool, tmp_path: Path
) -> None:
    """Its optimiser makes MatMulNBits of every DequantizeLinear and MatMul, a tied head's too."""
    rounding = rounded(tmp_path / "model", formats, tied=tied)
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "optimised.onnx")
    ort.InferenceSession(rounding.onnx(tmp_path / "onnx", PORTABLE) / MODEL, options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("MatMulNBits") == 3 * 7 + 1 and not {"DequantizeLinear", "Transpose"} & set(operators)


@flavours
@pytest.mark.parametrize("formats", [("q8_0", "q4_0"), ("q4_0",)])
def test_layers_with_their_own_numbers_of_heads(formats: tuple[str, ...], options: OnnxOptions, tmp_path: Path) -> None:
    config = {
        **LLAMA,
        "vocab_size": VOCAB,
        "num_attention_heads": [4, 2],
        "num_key_value_heads": [1, 2],
        "head_dim": 16,
    }
    tensors = {name: values * 0.3 for name, values in random_tensors(config).items()}
    folder = save_folder(tmp_path / "model", config, tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SAMPLE / name, folder / name)
    check_logits(round_in_turn(folder, formats), tmp_path, options)
    assert not (tmp_path / "onnx" / "genai_config.json").exists()  # it has one number for all layers


def test_int8_activations_are_near(tmp_path: Path) -> None:
    """accuracy_level 4 rounds activations to int8 in blocks: another result, but not by much."""
    rounding = rounded(tmp_path / "model", ("q4_0",))
    tokens = np.random.default_rng(1).integers(0, VOCAB, 50)
    logits = [
        Model(rounding.onnx(tmp_path / str(level), OnnxOptions(level)), rounding.checkpoint).run(tokens)
        for level in (0, 4)
    ]
    assert 1e-4 < relative_error(logits[1], logits[0]) < 0.1


def test_only_the_last_logits(tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q8_0",))
    folder = rounding.onnx(tmp_path / "onnx")
    tokens = np.random.default_rng(1).integers(0, VOCAB, 20)
    logits = Model(folder, rounding.checkpoint).run(tokens)
    kept = Model(folder, rounding.checkpoint).run(tokens, logits_to_keep=np.array([3]))
    assert kept.shape == (3, VOCAB)
    np.testing.assert_allclose(kept, logits[-3:], atol=1e-5)


@pytest.mark.parametrize("format", BITS)
def test_codes_and_scales_hold_the_blocks_values(format: str) -> None:
    """Code by code, as MatMulNBits is documented, every code among them."""
    bits, rows = BITS[format], np.random.default_rng(0).standard_normal((16, 96), np.float32)
    blocks = format_of(format).encode(rows, None)
    signed, scales = codes_and_scales(format, blocks)
    codes = packed(signed, bits).reshape(16, 3, -1)
    values, seen = np.empty_like(rows), set()
    for row in range(16):
        for column in range(96):
            block, place = divmod(column, 32)
            byte = int(codes[row, block, place * bits // 8])
            code = byte if bits == 8 else (byte >> 4 * (place % 2)) & 15
            seen.add(code)
            values[row, column] = scales[row, block] * np.float32(code - (8 if bits == 4 else 128))
    np.testing.assert_array_equal(values, format_of(format).decode(blocks))
    assert len(seen) > 0.7 * 2**bits


@pytest.mark.parametrize("format", ONNX.formats)
def test_bytes_of_a_matrix(format: str, tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", (format,))
    folder = rounding.onnx(tmp_path / "onnx")
    shapes = {tensor.name: tensor.shape for tensor in rounding.checkpoint.tensors}
    expected = sum(ONNX.bytes(format_of(format), shapes[name]) for name in rounding.formats)
    vectors = 4 * sum(shape[0] for name, shape in shapes.items() if name not in rounding.formats)
    facts = {p.key: p.value for p in onnx.load(folder / MODEL).metadata_props}
    types = json.loads(facts["edgekit.types"])
    assert types == ({"f32": expected + vectors} if format == "f32" else {format: expected, "f32": vectors})
    assert expected + vectors < (folder / MODEL).stat().st_size < expected + vectors + 50_000


def test_bits_per_weight() -> None:
    widths = {name: ONNX.bits_per_weight(format_of(name)) for name in ONNX.formats}
    assert widths == {"q4_0": 5.0, "q8_0": 9.0, "f16": 16.0, "bf16": 16.0, "f32": 32.0}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_matrices_is_bounded_before_formats_are_chosen(
    family: str, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By little more than it takes, unless external data are aligned."""
    folder = random_checkpoint(tmp_path / "model", family, bias=family == "llama", ffn=112)  # down: in floats alone
    checkpoint = open_checkpoint(folder)
    if external:
        monkeypatch.setattr(write, "INLINE_BYTES", 0)
    most = write.fixed_bytes(checkpoint)
    shapes = {tensor.name: tensor.shape for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES}
    generator = np.random.default_rng(0)
    mixtures = [generator.choice(ONNX.formats, len(shapes)).tolist() for _ in range(3)]
    for number, names in enumerate((*([name] * len(shapes) for name in ONNX.formats), *mixtures)):
        formats = {each: fallback(name, shapes[each][1]).name for each, name in zip(shapes, names, strict=True)}
        rounding = Rounding(checkpoint, formats, list(Rounded(checkpoint).stream(formats)))
        options = OnnxOptions(external_data=external)
        made = sum(file.stat().st_size for file in rounding.onnx(tmp_path / str(number), options).glob("model.onnx*"))
        matrices = sum(ONNX.stored_bytes(format_of(name), shapes[each]) for each, name in formats.items())
        assert matrices < made <= most + matrices
        if names in mixtures and not external:
            assert made > 0.9 * most + matrices


def test_a_tied_matrix_is_stored_once(tmp_path: Path) -> None:
    folder = rounded(tmp_path / "model", ("q4_0",), tied=True).onnx(tmp_path / "onnx")
    graph = onnx.load(folder / MODEL).graph
    large = [t.name for t in graph.initializer if VOCAB in t.dims and t.data_type == onnx.TensorProto.UINT8]
    assert large == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("bias", [False, True])
def test_queries_keys_and_values_of_one_format_are_one_matrix(bias: bool, tmp_path: Path) -> None:
    """In whatever order their blocks come; with different formats each stays on its own."""
    rounding = rounded(tmp_path / "model", ("q4_0",), bias=bias)
    backwards = replace(rounding, blocks=rounding.blocks[::-1])
    first, second = (made.onnx(tmp_path / name) / MODEL for made, name in ((rounding, "first"), (backwards, "second")))
    assert first.read_bytes() == second.read_bytes()
    apart = round_in_turn(tmp_path / "model", ("q4_0", "q8_0")).onnx(tmp_path / "apart") / MODEL
    for path, expected in ((first, 3 * 5 + 1), (apart, 3 * 7 + 1)):
        assert [node.op_type for node in onnx.load(path).graph.node].count("MatMulNBits") == expected


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0", "f16"))
    tokens = np.random.default_rng(1).integers(0, VOCAB, 20)
    inside = rounding.onnx(tmp_path / "inside")
    beside = rounding.onnx(tmp_path / "beside", OnnxOptions(1, external_data=True))
    assert not (inside / DATA).exists() and (beside / DATA).stat().st_size > 10 * (beside / MODEL).stat().st_size
    logits = [Model(folder, rounding.checkpoint).run(tokens) for folder in (inside, beside)]
    np.testing.assert_array_equal(*logits)
    facts = [{p.key: p.value for p in onnx.load(folder / MODEL).metadata_props} for folder in (inside, beside)]
    assert facts[0] == facts[1] and len(facts[0]["edgekit.weights_sha256"]) == 64


def test_too_many_weights_for_one_file_go_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0",))
    monkeypatch.setattr(write, "INLINE_BYTES", 100_000)
    assert (rounding.onnx(tmp_path / "onnx") / DATA).exists()
    monkeypatch.setattr(write, "INLINE_BYTES", 10_000_000)
    assert not (rounding.onnx(tmp_path / "small") / DATA).exists()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0", "f16"))
    first, second = (rounding.onnx(tmp_path / name) / MODEL for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_a_shorter_context_shortens_the_tables(tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0",))
    graph = onnx.load(rounding.onnx(tmp_path / "onnx", OnnxOptions(context=32)) / MODEL).graph
    assert [list(t.dims) for t in graph.initializer if t.name == "rope.cos"] == [[32, 8]]
    with pytest.raises(InputError, match=r"--context 257 is out of range: .* 1 to 256 tokens"):
        rounding.onnx(tmp_path / "longer", OnnxOptions(context=257))


@pytest.mark.parametrize("format", ["iq4_nl", "q4_k", "q5_1"])
def test_other_formats_are_refused_with_those_that_are_possible(format: str) -> None:
    with pytest.raises(
        InputError, match=f'x: ONNX cannot carry {format}, the type of "w": .* {", ".join(ONNX.formats)}, '
    ):
        ONNX.require_carried({"v": "q4_0", "w": format}, source="x")


def test_a_plan_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0",))
    formats = {name: format for name, format in rounding.formats.items() if "layers.1.mlp.up" not in name}
    with pytest.raises(InputError, match=r"differ about 'model.layers.1.mlp.up_proj.weight'"):
        replace(rounding, formats=formats).onnx(tmp_path / "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("external", [False, True])
def test_nothing_is_left_where_the_matrices_end_early(external: bool, tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0",))

    def broken() -> Iterator[tuple[str, Blocks]]:
        yield from rounding.blocks[:3]
        raise InputError("cannot be read")

    with pytest.raises(InputError, match="cannot be read"):
        replace(rounding, blocks=broken()).onnx(tmp_path / "onnx", OnnxOptions(1, external_data=external))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_existing_folder_stays(tmp_path: Path) -> None:
    rounding = rounded(tmp_path / "model", ("q4_0",))
    (tmp_path / "onnx").mkdir()
    with pytest.raises(InputError, match="exists already"):
        rounding.onnx(tmp_path / "onnx")
