"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.figures import bytes_text
from edgekit.models.errors import InputError
from edgekit.quant.size import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("190MB", 190_000_000),
        ("250 KiB", 256_000),
        ("123456789", 123_456_789),
        ("17 B", 17),
        ("1.2GB", 1_200_000_000),
        ("1.2 GiB", 1_288_490_188),  # 1288490188.8, rounded down
        ("0.1kB", 100),
        (" 5 mb ", 5_000_000),
        ("5Mb", 5_000_000),
        ("5mib", 5 * 1024**2),
        ("2TB", 2 * 1000**4),
        ("2TiB", 2 * 1024**4),
        ("4.35MB", 4_350_000),  # 4349999 in binary floating point
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "MB", "-5MB", "5 M", "5G", "5 MBit", "1,5GB", "1e9", "nan", "inf", "1.5", "0", "0MB", "0.0001kB", "5MB5",
     "9" * 40, "99999999999TB", "\u0665MB", "5\u00a0000", "0x10", "1_000"],
)  # fmt: skip
def test_other_texts_say_what_is_accepted(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_size(text)
    assert "KiB, MiB or GiB" in str(caught.value)
    assert "kB, MB or GB" in str(caught.value)
    assert f'"{text}"' in str(caught.value)


@given(st.integers(min_value=1, max_value=10**15))
def test_a_printed_size_reads_back_to_its_precision(size: int) -> None:
    printed = bytes_text(size)
    unit = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}[printed.split()[1]]
    assert abs(parse_size(printed) - size) <= 0.05 * unit + 1
