"""Q4_0: 32 weights d * q, float16 d and q in -8 .. 7; 4.5 bits per weight."""

from edgekit.quant.formats.block import block_format

Q4_0 = block_format("q4_0", ggml_type=2, file_type=2, width=4, scales=(0,))
