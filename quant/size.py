"""Sizes as people write them: "190MB", "250 KiB", "1.2GB", plain bytes."""

from __future__ import annotations

import re
from decimal import Decimal

from edgekit.models.errors import InputError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_SIZE = re.compile(r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?P<unit>[a-z]*)", re.IGNORECASE | re.ASCII)
_ACCEPTED = "write plain bytes (190000000), kB, MB or GB (powers of 1000), or KiB, MiB or GiB (powers of 1024)"


def parse_size(text: str) -> int:
    """Bytes, rounded down; upper and lower case are the same. InputError says what is accepted.

    A bare "M" or "G" is refused: it is read as a power of 1000 by some and of 1024 by others.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f'"{text}" is not a size: {_ACCEPTED}')
    unit = _UNITS.get(match["unit"].lower())
    if unit is None:
        raise InputError(f'"{text}" has no unit that is known here: {_ACCEPTED}')
    value = Decimal(match["number"]) * unit
    if unit == 1 and value != int(value):
        raise InputError(f'"{text}" is not a whole number of bytes: {_ACCEPTED}')
    if not 1 <= value < 2**63:
        raise InputError(f'"{text}" is not a possible size: {_ACCEPTED}')
    return int(value)
