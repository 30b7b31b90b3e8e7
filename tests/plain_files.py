"""GGUF and ONNX with every matrix in one format, text for the sample model, and the marks of the runtimes' tests."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekit.export.gguf import write_gguf
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.spec import MATRIX_ROLES
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.formats import format_of

SAMPLE = Path(__file__).parent / "assets" / "sample"
PACKAGES = {"native": "edgekit._native", "llama.cpp": "llama_cpp", "torch": "torch", "onnx": "onnxruntime"}
GGUF_RUNTIMES = ("native", "llama.cpp", "torch")


def write_plain(path: Path, format: str, source: Path = SAMPLE) -> Path:
    """A checkpoint with every matrix in one format, without importance."""
    checkpoint = open_checkpoint(source)
    names = [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    blocks = ((name, format_of(format).encode(checkpoint.read(name), None)) for name in names)
    write_gguf(checkpoint, load_tokenizer(checkpoint), blocks, dict.fromkeys(names, format), path)
    return path


def write_plain_onnx(folder: Path, format: str, source: Path = SAMPLE, **options: bool) -> Path:
    """The same for ONNX; activations stay float32, or, where `options` say portable, as the runtime has them."""
    from edgekit.export.onnx.options import OnnxOptions
    from edgekit.export.onnx.write import write_onnx

    checkpoint = open_checkpoint(source)
    names = [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    blocks = ((name, format_of(format).encode(checkpoint.read(name), None)) for name in names)
    chosen = OnnxOptions(accuracy_level=1, **options)
    write_onnx(checkpoint, load_tokenizer(checkpoint), blocks, dict.fromkeys(names, format), folder, options=chosen)
    return folder


def story(sentences: int, seed: int = 0) -> str:
    """English of a sort, about 17 of the sample's tokens a sentence."""
    rng = random.Random(seed)
    subjects = ("The old king", "A young woman", "This film", "The company", "Her brother", "The second act", "No one")
    verbs = ("remembers", "never leaves", "is a story about", "was bought by", "looks at", "speaks of", "fights for")
    objects = ("the war", "a small town", "his own house", "the river in winter", "an American family", "the new law")
    ends = ("and it is good.", "in the end.", "but the night is long.", "for many years.", "with great art.", "again.")
    return "\n".join(" ".join(rng.choice(part) for part in (subjects, verbs, objects, ends)) for _ in range(sentences))


def needs(runtime: str) -> pytest.MarkDecorator:
    """A visible skip where the runtime's package is not installed."""
    package = PACKAGES[runtime]
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")
