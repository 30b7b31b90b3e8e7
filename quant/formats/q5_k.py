"""Q5_K: 8 x 32 weights d * scale * q - dmin * minimum, 6-bit scales and minima, q in 0 .. 31; 5.5 bits per weight."""

from edgekit.quant.formats.block import block_format

Q5_K = block_format("q5_k", ggml_type=13, file_type=16, width=5, scales=(0, 2))
