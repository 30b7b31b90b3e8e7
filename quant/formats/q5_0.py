"""Q5_0: 32 weights d * q, float16 d and q in -16 .. 15; 5.5 bits per weight."""

from edgekit.quant.formats.block import block_format

Q5_0 = block_format("q5_0", ggml_type=6, file_type=8, width=5, scales=(0,))
