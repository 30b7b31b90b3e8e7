"""Q6_K: 16 x 16 weights d * scale * q, int8 scales, q in -32 .. 31; 6.5625 bits per weight."""

from edgekit.quant.formats.block import block_format

Q6_K = block_format("q6_k", ggml_type=14, file_type=18, width=6, scales=(208,))
