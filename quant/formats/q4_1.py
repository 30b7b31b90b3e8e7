"""Q4_1: 32 weights d * q + m, float16 d and m and q in 0 .. 15; 5 bits per weight."""

from edgekit.quant.formats.block import block_format

Q4_1 = block_format("q4_1", ggml_type=3, file_type=3, width=4, scales=(0, 2))
