"""BF16: the upper half of a float32, rounded to nearest even."""

from edgekit.quant.formats.block import block_format

BF16 = block_format("bf16", ggml_type=30, file_type=32, width=16)
