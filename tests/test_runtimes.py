"""Every runtime on the sample's files: its own consistency, its agreement with transformers, and what it refuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from models_random import random_checkpoint
from plain_files import GGUF_RUNTIMES, SAMPLE, needs, story, write_plain, write_plain_onnx

from edgekit.models.errors import InputError, MissingExtra
from edgekit.runtimes import RUNTIMES, CacheTypes, Session, load
from edgekit.runtimes.attention_cache import cache_bytes
from edgekit.runtimes.generate import generate
from edgekit.runtimes.sampling import Sampling

runtimes = pytest.mark.parametrize("runtime", [pytest.param(name, marks=needs(name)) for name in RUNTIMES])
gguf_runtimes = pytest.mark.parametrize("runtime", [pytest.param(name, marks=needs(name)) for name in GGUF_RUNTIMES])
TEXT = "Once upon a time, é 中 😀  two  spaces\n\tand 1,234 <|eos|> it's"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {name: write_plain(folder / f"{name}.gguf", name) for name in ("f32", "q8_0", "q4_k", "iq4_nl")}


@pytest.fixture(scope="module")
def ids() -> list[int]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    return [0, *tokenizer.encode(story(12), add_special_tokens=False).ids][:160]


@pytest.fixture(scope="module")
def transformers_model() -> Any:
    transformers = pytest.importorskip("transformers")
    import torch

    return transformers.AutoModelForCausalLM.from_pretrained(SAMPLE, dtype=torch.float32)


@pytest.fixture(scope="module")
def f32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_onnx(tmp_path_factory.mktemp("files") / "f32", "f32")


@pytest.fixture
def f32(request: pytest.FixtureRequest, runtime: str) -> Path:
    """The sample in float32, as the runtime takes it."""
    if runtime == "onnx":
        return request.getfixturevalue("f32_folder")
    return request.getfixturevalue("files")["f32"]


@pytest.fixture
def session(f32: Path, runtime: str) -> Iterator[Session]:
    opened = load(f32, runtime=runtime, context=256, threads=1)
    yield opened
    opened.close()


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


@runtimes
def test_float32_agrees_with_transformers(session: Session, transformers_model: Any, ids: list[int]) -> None:
    expected = logits_of(transformers_model, ids)
    # llama.cpp keeps keys and values in float16; so does the native runtime, which also rounds activations to int8
    tolerance = {"TorchSession": 1e-4, "OnnxSession": 1e-4, "LlamaCppSession": 0.02, "NativeSession": 0.15}[
        type(session).__name__
    ]
    np.testing.assert_allclose(session.score(ids, 5), expected[5:], atol=tolerance)


@runtimes
def test_prefill_and_decode_give_what_score_gives(session: Session, ids: list[int]) -> None:
    scored = session.score(ids[:40], 0)
    assert scored.shape == (40, 4096)
    assert scored.dtype == np.float32
    session.reset()
    tolerance = {"atol": 1e-4 if type(session).__name__ in ("TorchSession", "OnnxSession") else 0.02}
    np.testing.assert_allclose(session.prefill(ids[:30]), scored[29], **tolerance)
    assert session.position == 30
    for position in range(30, 35):
        np.testing.assert_allclose(session.decode(ids[position]), scored[position], **tolerance)
    np.testing.assert_allclose(session.prefill(ids[35:40]), scored[39], **tolerance)


@runtimes
def test_score_starts_over_and_returns_a_copy(session: Session, ids: list[int]) -> None:
    first = session.score(ids[:20], 10)
    kept = first.copy()
    other = session.score(ids[20:40], 10)
    assert not np.array_equal(other, kept)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(session.score(ids[:20], 10), kept)
    assert session.position == 20


@runtimes
def test_windows_longer_than_a_batch(f32: Path, runtime: str, transformers_model: Any) -> None:
    window = [0, *(7 + 13 * i % 4000 for i in range(599))]
    session = load(f32, runtime=runtime, context=600, threads=2)
    scored = session.score(window, 505)  # across the border at 512
    expected = logits_of(transformers_model, window)[505:]
    np.testing.assert_allclose(scored, expected, atol=1e-3 if runtime in ("torch", "onnx") else 0.1)
    session.close()


@runtimes
def test_special_tokens(session: Session) -> None:
    assert (session.bos, session.eos, session.end_tokens) == (0, 1, frozenset({1}))
    assert session.chat_template is None
    assert session.token_text(0) == "<|bos|>"
    assert session.decode_bytes(1) == b""
    plain, special = session.encode("<|eos|>"), session.encode("<|eos|>", special=True)
    assert special == [1]
    assert 1 not in plain
    assert b"".join(map(session.decode_bytes, plain)) == b"<|eos|>"


@runtimes
def test_text_survives_the_tokens(session: Session) -> None:
    tokens = session.encode(TEXT)
    assert b"".join(map(session.decode_bytes, tokens)) == TEXT.encode()
    assert session.encode("") == []


@runtimes
def test_context_is_kept(session: Session, ids: list[int]) -> None:
    assert session.context == 256
    session.prefill(ids)
    with pytest.raises(InputError, match="160 tokens after 160 do not fit in a context of 256"):
        session.prefill(ids)
    assert session.position == 160
    for bad in ([4096], [-1]):
        with pytest.raises(InputError, match="outside the vocabulary"):
            session.prefill(bad)
    with pytest.raises(InputError, match="no token"):
        session.prefill([])


@runtimes
def test_greedy_generation_repeats(session: Session) -> None:
    prompt = [0, *session.encode("The film is")]

    def text() -> str:
        return "".join(piece.text for piece in generate(session, prompt, max_tokens=12, sampling=Sampling(0)))

    assert text() == text()
    assert len(text()) > 12


@gguf_runtimes
def test_refusals(files: dict[str, Path], runtime: str, tmp_path: Path) -> None:
    def refuse(path: Path, message: str, **options: int) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load(path, runtime=runtime, **options)
        assert str(path) in str(caught.value) or "--threads" in str(caught.value)

    refuse(tmp_path / "none.gguf", "not there")
    refuse(tmp_path, "is a folder")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04 and more")
    refuse(other, "not a GGUF file")
    whole = files["q8_0"].read_bytes()
    for size in (4, 20, 1000, len(whole) // 2, len(whole) - 5):
        cut = tmp_path / f"cut{size}.gguf"
        cut.write_bytes(whole[:size])
        refuse(cut, ".")
    refuse(files["q8_0"], "context of 1024 tokens: 1025 is out of range", context=1025)
    refuse(files["q8_0"], "context of 1024 tokens: 0 is out of range", context=0)
    refuse(files["q8_0"], "--threads 0", threads=0)


def test_an_unknown_runtime(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"no runtime 'tflite': choose one of native, llama\.cpp, torch, onnx"):
        load(files["f32"], runtime="tflite")


@pytest.mark.parametrize(
    ("runtime", "package", "extra"),
    [
        ("llama.cpp", "llama_cpp", "llama-cpp"),
        ("torch", "torch", "quantize"),
        ("onnx", "onnxruntime", "onnx"),
    ],
)
def test_a_missing_package(
    files: dict[str, Path], runtime: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, RUNTIMES[runtime], raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=re.escape(f"edgekit[{extra}]")):
        load(files["f32"], runtime=runtime)
    monkeypatch.delitem(sys.modules, RUNTIMES[runtime], raising=False)


@needs("torch")
@pytest.mark.parametrize("format", ["q8_0", "q4_k", "iq4_nl"])
def test_torch_runs_a_quantised_file_as_its_dequantised_weights(
    files: dict[str, Path], format: str, ids: list[int]
) -> None:
    """The oracle dequantises with the gguf library and undoes ggml's order of the rotary rows by hand."""
    import torch
    import transformers

    reader = gguf.GGUFReader(files[format])
    values = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    model = transformers.AutoModelForCausalLM.from_pretrained(SAMPLE, dtype=torch.float32)

    def put(parameter: Any, value: np.ndarray) -> None:
        parameter.data = torch.tensor(value, dtype=torch.float32).reshape(parameter.shape)

    def halves(value: np.ndarray, heads: int) -> np.ndarray:
        """Row 2j + h of a head goes to h * 16 + j."""
        result = np.empty_like(value)
        for row in range(len(value)):
            head, within = divmod(row, 32)
            result[head * 32 + within % 2 * 16 + within // 2] = value[row]
        assert len(value) == 32 * heads
        return result

    put(model.model.embed_tokens.weight, values["token_embd.weight"])
    put(model.model.norm.weight, values["output_norm.weight"])
    for number, layer in enumerate(model.model.layers):
        block = f"blk.{number}."
        put(layer.input_layernorm.weight, values[block + "attn_norm.weight"])
        put(layer.post_attention_layernorm.weight, values[block + "ffn_norm.weight"])
        put(layer.self_attn.q_proj.weight, halves(values[block + "attn_q.weight"], 8))
        put(layer.self_attn.k_proj.weight, halves(values[block + "attn_k.weight"], 4))
        put(layer.self_attn.v_proj.weight, values[block + "attn_v.weight"])
        put(layer.self_attn.o_proj.weight, values[block + "attn_output.weight"])
        put(layer.mlp.gate_proj.weight, values[block + "ffn_gate.weight"])
        put(layer.mlp.up_proj.weight, values[block + "ffn_up.weight"])
        put(layer.mlp.down_proj.weight, values[block + "ffn_down.weight"])

    expected = logits_of(model, ids)
    session = load(files[format], runtime="torch", context=256, threads=1)
    np.testing.assert_allclose(session.score(ids, 0), expected, atol=1e-4)
    original = transformers.AutoModelForCausalLM.from_pretrained(SAMPLE, dtype=torch.float32)
    assert np.abs(logits_of(original, ids) - expected).max() > 0.05  # the comparison could have failed


@needs("llama.cpp")
@needs("torch")
@pytest.mark.parametrize("format", ["q8_0", "q4_k", "iq4_nl"])
def test_runtimes_agree_on_a_quantised_file(files: dict[str, Path], format: str, ids: list[int]) -> None:
    """Two of them round activations to 8 bits: small in the mean, not nothing."""
    scores = {}
    for runtime in GGUF_RUNTIMES:
        session = load(files[format], runtime=runtime, context=256, threads=1)
        scores[runtime] = session.score(ids, 0)
        session.close()
    for runtime in ("native", "llama.cpp"):
        assert 1e-4 < np.sqrt(np.mean((scores[runtime] - scores["torch"]) ** 2)) < 0.15
        assert np.mean(scores[runtime].argmax(1) == scores["torch"].argmax(1)) > 0.9


@needs("llama.cpp")
@needs("torch")
@needs("onnx")
def test_runtimes_share_tokens(files: dict[str, Path], f32_folder: Path) -> None:
    sessions = [load(files["q8_0"], runtime=runtime, context=64, threads=1) for runtime in GGUF_RUNTIMES]
    sessions.append(load(f32_folder, runtime="onnx", context=64, threads=1))
    assert len(sessions) == len(RUNTIMES)
    for text in (TEXT, story(5), "", " ", "\n\n\n", "<|bos|>x"):
        for special in (False, True):
            assert len({tuple(session.encode(text, special=special)) for session in sessions}) == 1
    for token in range(4096):
        assert len({session.decode_bytes(token) for session in sessions}) == 1
        assert len({session.token_text(token) for session in sessions}) == 1


@needs("llama.cpp")
def test_llama_cpp_is_silent_and_frees_twice(files: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    session = load(files["q4_k"], runtime="llama.cpp", context=64, threads=1)
    session.prefill([0, 5, 6])
    session.close()
    session.close()
    assert capfd.readouterr() == ("", "")


@needs("llama.cpp")
@pytest.mark.parametrize("context", [100, 256, 800, 1000])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("types", [None, CacheTypes("q8_0", "q4_0")], ids=str)
def test_cache_bytes_is_what_llama_cpp_allocates(
    types: CacheTypes | None, family: str, context: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from edgekit.models.checkpoint import open_checkpoint
    from edgekit.runtimes import llama_cpp

    if family == "llama":
        source: Path = SAMPLE
    else:
        source = random_checkpoint(tmp_path / "gemma", "gemma3", layers=4, head_dim=32)
        context = min(context, 256)
    path = write_plain(tmp_path / "model.gguf", "f16", source)
    llama_cpp.set_debug(True)
    try:
        session = load(path, runtime="llama.cpp", context=context, threads=1, cache=types)
    finally:
        llama_cpp.set_debug(False)
    log = capfd.readouterr().err
    told = [float(size) for size in re.findall(r"KV buffer size =\s*([\d.]+) MiB", log)]
    assert told
    expected = cache_bytes(open_checkpoint(source).spec, context, types=types)
    assert expected / 2**20 == pytest.approx(sum(told), abs=0.006 * len(told))
    assert session.stats().cache_bytes == expected
    assert session.stats().model_bytes < path.stat().st_size
