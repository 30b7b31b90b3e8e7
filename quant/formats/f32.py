"""F32: little-endian IEEE float32."""

from edgekit.quant.formats.block import block_format

F32 = block_format("f32", ggml_type=0, file_type=0, width=32)
