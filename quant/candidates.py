"""Which formats may be chosen: by user-facing width or by name, and what carries a row that they cannot."""

from __future__ import annotations

from edgekit.models.errors import InputError
from edgekit.quant.containers import GGUF, Container
from edgekit.quant.formats import FORMATS, Format, format_of

DEFAULT_WIDTHS = (4, 5, 6, 8, 16)
OVERFLOW = 65504.0  # the largest float16: a matrix with more is stored as bf16 where f16 was asked for


def candidate_formats(
    bits: tuple[int, ...] | None = None, formats: tuple[str, ...] | None = None, container: Container = GGUF
) -> tuple[str, ...]:
    """The names of the formats of those widths, or of those names, in the order of FORMATS; by default of all widths.

    Only those that the container carries. Width 16 is f16 (bf16 has three bits less and llama.cpp multiplies in it more
    slowly); bf16 and f32 are had by name. Raises InputError for an unknown width or name, for one that the container
    does not carry, and for both at once.
    """
    if bits and formats:
        raise InputError("--bits and --formats exclude each other: give one of the two")
    if formats:
        wanted = {format_of(name).name for name in formats}
        for name in sorted(wanted - set(container.formats)):
            raise InputError(f"{container.title} cannot carry {name}: choose from {', '.join(container.formats)}")
        return tuple(format.name for format in FORMATS if format.name in wanted)
    carried = [format for format in FORMATS if format.name in container.formats and format.name != "bf16"]
    widths = bits or DEFAULT_WIDTHS
    for width in widths:
        if width not in DEFAULT_WIDTHS:
            raise InputError(f"no type is {width} bits wide: choose from {', '.join(map(str, DEFAULT_WIDTHS))}")
        if bits and not any(format.width == width for format in carried):
            raise InputError(
                f"{container.title} carries no type of {width} bits: choose from {', '.join(container.formats)}"
            )
    return tuple(format.name for format in carried if format.width in widths)


def fallback(name: str, columns: int) -> Format:
    """`name` where it carries rows of that many weights, else the narrowest format that does and is no narrower.

    So where rows are multiples of 32 but not of 256, q4_k becomes iq4_nl, q5_k q5_0 and q6_k q8_0; f16 takes the rest.
    """
    asked = format_of(name)
    if asked.carries(columns):
        return asked
    fitting = [
        format
        for format in map(format_of, candidate_formats())
        if format.carries(columns) and format.bits_per_weight >= asked.bits_per_weight
    ]
    return min(fitting, key=lambda format: (format.bits_per_weight, format.name))


def carried_formats(names: tuple[str, ...], columns: int) -> tuple[Format, ...]:
    """The named formats that carry rows of that many weights; where none does, what stands in for them (`fallback`)."""
    carried = [format_of(name) for name in names if format_of(name).carries(columns)]
    if not carried:
        stand_ins = {fallback(name, columns).name for name in names}
        carried = [format for format in FORMATS if format.name in stand_ins]
    return tuple(carried)
