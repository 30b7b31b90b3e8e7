"""The block formats. A new one is a module beside these and a line in FORMATS."""

from __future__ import annotations

from edgekit.models.errors import InputError
from edgekit.quant.formats.bf16 import BF16
from edgekit.quant.formats.f16 import F16
from edgekit.quant.formats.f32 import F32
from edgekit.quant.formats.format import Blocks, Codes, FloatRows, Format
from edgekit.quant.formats.iq4_nl import IQ4_NL
from edgekit.quant.formats.q4_0 import Q4_0
from edgekit.quant.formats.q4_1 import Q4_1
from edgekit.quant.formats.q4_k import Q4_K
from edgekit.quant.formats.q5_0 import Q5_0
from edgekit.quant.formats.q5_1 import Q5_1
from edgekit.quant.formats.q5_k import Q5_K
from edgekit.quant.formats.q6_k import Q6_K
from edgekit.quant.formats.q8_0 import Q8_0

__all__ = ["FORMATS", "Blocks", "Codes", "FloatRows", "Format", "format_of", "formats_of_width"]

FORMATS: tuple[Format, ...] = (Q4_0, IQ4_NL, Q4_K, Q4_1, Q5_0, Q5_K, Q5_1, Q6_K, Q8_0, F16, BF16, F32)


def format_of(name: str) -> Format:
    """The format of that name, in either case. Raises InputError with the names there are."""
    for format in FORMATS:
        if format.name == name.lower():
            return format
    raise InputError(f"unknown format '{name}': choose from {', '.join(format.name for format in FORMATS)}")


def formats_of_width(bits: int) -> tuple[Format, ...]:
    """The formats of a user-facing width. Raises InputError with the widths there are."""
    found = tuple(format for format in FORMATS if format.width == bits)
    if not found:
        widths = sorted({format.width for format in FORMATS})
        raise InputError(f"no format is {bits} bits wide: choose from {', '.join(map(str, widths))}")
    return found
