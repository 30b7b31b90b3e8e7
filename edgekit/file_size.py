"""What a file of each kind holds beside the matrices, known before any format is chosen."""

from __future__ import annotations

from importlib.util import find_spec

from edgekit.calibrating import Source
from edgekit.export.gguf import file_bytes
from edgekit.models.errors import MissingExtra
from edgekit.quant.containers import GGUF, ONNX, Container
from edgekit.quant.formats.f32 import F32
from edgekit.quant.plan import matrices


def fixed_bytes(source: Source, container: Container) -> int:
    """The bytes of header or graph, and vectors: of a GGUF exactly, of ONNX at most.

    Raises InputError where the checkpoint cannot be written as that kind of file.
    """
    if container == ONNX:
        if find_spec("onnx") is None:
            raise MissingExtra("onnx", "onnx")
        from edgekit.export.onnx.write import fixed_bytes

        return fixed_bytes(source.checkpoint)
    tensors = matrices(source.checkpoint.tensors)
    everything = file_bytes(source.checkpoint, source.tokenizer, {tensor.name: F32.name for tensor in tensors})
    return everything - sum(GGUF.stored_bytes(F32, tensor.shape) for tensor in tensors)
