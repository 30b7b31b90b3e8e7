"""Q8_0: 32 weights d * q, float16 d and int8 q; 8.5 bits per weight."""

from edgekit.quant.formats.block import block_format

Q8_0 = block_format("q8_0", ggml_type=8, file_type=7, width=8, scales=(0,))
