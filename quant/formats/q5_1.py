"""Q5_1: 32 weights d * q + m, float16 d and m and q in 0 .. 31; 6 bits per weight."""

from edgekit.quant.formats.block import block_format

Q5_1 = block_format("q5_1", ggml_type=7, file_type=9, width=5, scales=(0, 2))
