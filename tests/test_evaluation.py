"""Evaluation of files: the whole path against a float64 oracle, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_random import random_checkpoint
from plain_files import SAMPLE, needs, story, write_plain
from scipy.special import log_softmax

from edgekit.evaluation import Evaluation, evaluate
from edgekit.models.errors import InputError
from edgekit.models.gguf_header import read_header

pytestmark = needs("torch")
CONTEXT = 128
NAMES = (
    "kld_mean kld_stderr kld_p999 ppl ppl_reference same_top1 top1 top1_reference "
    "tokens bytes tensor_bytes chunks runtime"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {name: write_plain(folder / f"{name}.gguf", name) for name in ("f32", "q8_0", "q4_0")}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(story(40), encoding="utf-8")
    return path


def run(model: Path, text: Path, **options: Any) -> Evaluation:
    settings = {"reference": SAMPLE, "text": text, "chunks": 2, "threads": 1, "context": CONTEXT, **options}
    return evaluate(model, **settings)


def oracle(weights: dict[str, np.ndarray], text: str, chunks: int) -> dict[str, float]:
    """The protocol with transformers and scipy in float64: `weights` replace the sample's."""
    import tokenizers
    import torch
    import transformers

    ids = tokenizers.Tokenizer.from_file(str(SAMPLE / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    stream = [0, *ids]
    models = [transformers.AutoModelForCausalLM.from_pretrained(SAMPLE, dtype=torch.float64) for _ in range(2)]
    parameters = dict(models[1].named_parameters())
    for name, value in weights.items():
        parameters[name].data = torch.tensor(value, dtype=torch.float64)
    kld, nll, nll_reference, same = [], [], [], []
    for chunk in range(chunks):
        window = [0, *stream[chunk * CONTEXT + 1 : (chunk + 1) * CONTEXT]]
        with torch.no_grad():
            p, q = (log_softmax(model(torch.tensor([window])).logits[0].numpy(), axis=1) for model in models)
        for position in range(CONTEXT // 2, CONTEXT - 1):
            following = window[position + 1]
            kld.append(np.sum(np.exp(p[position]) * (p[position] - q[position])))
            nll.append(-q[position, following])
            nll_reference.append(-p[position, following])
            same.append(p[position].argmax() == q[position].argmax())
    return {
        "kld_mean": float(np.mean(kld)),
        "kld_p999": float(np.quantile(kld, 0.999)),
        "ppl": float(np.exp(np.mean(nll))),
        "ppl_reference": float(np.exp(np.mean(nll_reference))),
        "same_top1": float(np.mean(same)),
        "tokens": len(kld),
    }


def dequantised(path: Path) -> dict[str, np.ndarray]:
    """The q4_0 file's matrices by Hugging Face name, through the torch runtime's own checkpoint."""
    from edgekit.models.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path, quantised=True)
    return {tensor.name: checkpoint.read(tensor.name) for tensor in checkpoint.tensors}


def test_the_fields_are_the_agreed_ones(files: dict[str, Path], text: Path) -> None:
    assert [field.name for field in fields(Evaluation)] == NAMES.split()
    result = run(files["f32"], text, runtime="torch")
    assert (result.chunks, result.runtime, result.tokens) == (2, "torch", 2 * (CONTEXT - 1 - CONTEXT // 2))
    assert result.bytes == files["f32"].stat().st_size
    header = read_header(files["f32"])
    assert result.tensor_bytes == result.bytes - header.data_offset
    assert result.tensor_bytes == pytest.approx(4 * 7_344_384, rel=1e-3)


def test_torch_equals_the_float64_oracle(files: dict[str, Path], text: Path) -> None:
    result = asdict(run(files["q4_0"], text, runtime="torch"))
    expected = oracle(dequantised(files["q4_0"]), text.read_text(), 2)
    assert expected["kld_mean"] > 0.005
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize("runtime", ["native", pytest.param("llama.cpp", marks=needs("llama.cpp"))])
def test_int8_runtimes_measure_the_file(files: dict[str, Path], text: Path, runtime: str) -> None:
    exact, fine, coarse = (run(files[name], text, runtime=runtime) for name in ("f32", "q8_0", "q4_0"))
    assert 0 <= exact.kld_mean < 2e-5  # a float16 cache
    assert exact.kld_mean < fine.kld_mean < coarse.kld_mean
    reference = run(files["q4_0"], text, runtime="torch")
    assert coarse.ppl_reference == pytest.approx(reference.ppl_reference, rel=1e-6)
    assert coarse.kld_mean == pytest.approx(reference.kld_mean, rel=0.15)  # 8-bit activations
    assert coarse.ppl == pytest.approx(reference.ppl, rel=0.02)


def test_a_gguf_is_a_reference_too(files: dict[str, Path], text: Path, tmp_path: Path) -> None:
    result = run(files["q8_0"], text, runtime="torch")
    again = run(files["q8_0"], text, runtime="torch", reference=files["f32"])
    assert again.kld_mean == pytest.approx(result.kld_mean, rel=1e-3)
    with pytest.raises(InputError):  # a quantised file is no reference
        run(files["q8_0"], text, runtime="torch", reference=files["q4_0"])


def test_all_windows_of_the_text_by_default(files: dict[str, Path], text: Path) -> None:
    result = run(files["q8_0"], text, runtime="torch", chunks=None, context=256)
    assert result.chunks == 2
    assert result.tokens == 2 * 127


@needs("llama.cpp")
def test_special_tokens_in_the_text_are_text(tmp_path: Path) -> None:
    from edgekit.evaluation import text_windows
    from edgekit.models.checkpoint import open_checkpoint
    from edgekit.models.tokenizer import load_tokenizer
    from edgekit.runtimes import load

    text = tmp_path / "text.txt"
    text.write_text("the <|eos|> war <|bos|>\n" * 40)
    windows = text_windows(load_tokenizer(open_checkpoint(SAMPLE)), text, 64, None)
    session = load(write_plain(tmp_path / "model.gguf", "q8_0"), runtime="llama.cpp", context=64, threads=1)
    expected = [0, *session.encode(text.read_text())]
    for number, window in enumerate(windows):
        assert list(window[1:]) == expected[64 * number + 1 : 64 * (number + 1)]
        assert not {0, 1} & set(window[1:].tolist())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "cannot read"),
        (b"", {}, "one window takes 128"),
        (b"too short", {}, "one window takes 128"),
        (b"\xff\xfe\x00", {}, "not UTF-8"),
        (b"word " * 500, {"chunks": 0}, "at least one window"),
        (b"word " * 500, {"context": 2048}, "beyond the 1024"),
        (b"word " * 500, {"context": 4}, "too short"),
        (b"word " * 500, {"runtime": "tflite"}, "no runtime"),
        (b"word " * 500, {"threads": 0}, "--threads 0"),
    ],
)
def test_refusals(
    files: dict[str, Path], content: bytes | None, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(InputError, match=message):
        run(files["q8_0"], text, **{"runtime": "torch", **options})


def test_another_vocabulary_is_refused(text: Path, tmp_path: Path) -> None:
    """Same size, other spelling: two tokens of the reference's tokenizer change places."""
    other = random_checkpoint(tmp_path / "other", "llama")
    tokenizer = other / "tokenizer.json"
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġwar"], vocabulary["Ġlaw"] = vocabulary["Ġlaw"], vocabulary["Ġwar"]
    model = write_plain(tmp_path / "model.gguf", "f16", other)
    tokenizer.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"spells token \d+ .*the checkpoint that it was made from"):
        run(model, text, reference=other, runtime="torch")
