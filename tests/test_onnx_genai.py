"""ONNX Runtime GenAI on an exported folder, as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from models_random import FAMILIES, VOCAB, random_checkpoint
from plain_files import write_plain_onnx

from edgekit.export.onnx.genai import genai_config
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.tokenizer import load_tokenizer
from edgekit.runtimes import load

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'edgekit[onnx]'")
genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")


@pytest.mark.parametrize(("family", "portable"), [*((family, False) for family in FAMILIES), ("gemma3", True)])
def test_it_generates_what_the_session_does(family: str, portable: bool, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path / "model", family)
    folder = write_plain_onnx(tmp_path / "onnx", "q8_0", checkpoint, portable=portable)
    prompt = np.random.default_rng(0).integers(2, VOCAB, 30).tolist()
    session = load(folder, runtime="onnx", threads=1)
    expected, logits = [], session.prefill(prompt)
    for _ in range(40):
        expected.append(int(logits.argmax()))
        logits = session.decode(expected[-1])
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=70, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(prompt)
    made: list[int] = []
    while not generator.is_done():
        generator.generate_next_token()
        made.append(int(generator.get_next_tokens()[0]))
    assert made == expected[: len(made)] and (len(made) == 40 or made[-1] in session.end_tokens)


def test_it_reads_the_tokenizer(tmp_path: Path) -> None:
    folder = write_plain_onnx(tmp_path / "onnx", "q8_0", random_checkpoint(tmp_path / "model", "llama"))
    text = "Once upon a time, é 中 😀  two  spaces\n\tand 1,234"
    assert list(genai.Tokenizer(genai.Model(str(folder))).encode(text)) == load(folder, runtime="onnx").encode(text)


def test_the_checkpoints_own_sampling_is_passed_on(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model", "llama")
    stated = {"do_sample": True, "top_k": 64, "temperature": None, "eos_token_id": [1, 9], "max_length": 7}
    (folder / "generation_config.json").write_text(json.dumps(stated))
    checkpoint = open_checkpoint(folder)
    config = genai_config(checkpoint, load_tokenizer(checkpoint), 100, "model.onnx", in_place=True)
    assert config["search"] == {"max_length": 100, "past_present_share_buffer": True, "do_sample": True, "top_k": 64}
    assert config["model"]["eos_token_id"] == [1, 9] and config["model"]["context_length"] == 100
