"""IQ4_NL: 32 weights d * level[q], float16 d and 16 uneven levels from -127 to 113; 4.5 bits per weight."""

from edgekit.quant.formats.block import block_format

IQ4_NL = block_format("iq4_nl", ggml_type=20, file_type=25, width=4, scales=(0,))
