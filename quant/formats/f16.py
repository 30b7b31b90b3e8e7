"""F16: little-endian IEEE float16, rounded to nearest even; beyond 65504 it overflows to infinity."""

from edgekit.quant.formats.block import block_format

F16 = block_format("f16", ggml_type=1, file_type=1, width=16)
