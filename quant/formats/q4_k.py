"""Q4_K: 8 x 32 weights d * scale * q - dmin * minimum, 6-bit scales and minima, q in 0 .. 15; 4.5 bits per weight."""

from edgekit.quant.formats.block import block_format

Q4_K = block_format("q4_k", ggml_type=12, file_type=14, width=4, scales=(0, 2))
