"""The sample checkpoint as a GGUF with one type for all matrices, written without calibration."""

from __future__ import annotations

from pathlib import Path

from edgekit.export.gguf import write_gguf
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.formats import format_of
from edgekit.quant.plan import matrices

SAMPLE = Path(__file__).parent / "assets" / "sample"


def write_sample_gguf(path: Path, format_name: str = "q8_0", folder: Path = SAMPLE) -> Path:
    """The file at `path`, of the sample or of another checkpoint."""
    checkpoint = open_checkpoint(folder)
    format = format_of(format_name)
    named = [tensor.name for tensor in matrices(checkpoint.tensors)]
    blocks = ((name, format.encode(checkpoint.read(name), None)) for name in named)
    write_gguf(checkpoint, load_tokenizer(checkpoint), blocks, dict.fromkeys(named, format_name), path)
    return path
