"""Figures as people read them: bytes, counts, KL; one way of writing for the terminal and the report."""

from __future__ import annotations

import math

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def bytes_text(count: float) -> str:
    """261317184 -> "261.3 MB"; units of 1000, as `--size` reads them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.2f} {unit}" if unit == "GB" else f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def count_text(count: float) -> str:
    """7344384 -> "7.34 M"."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f}"


def kl_text(kl: float | None) -> str:
    """Nats with three significant digits, powers of ten below 0.001: 0.00612, 4.10 × 10⁻⁴, "not known" for None."""
    if kl is None or not math.isfinite(kl):
        return "not known"
    if kl == 0:
        return "0"
    digits = 3 - 1 - math.floor(math.log10(abs(kl)))
    if abs(kl) >= 1e-3:
        return f"{kl:.{max(0, digits)}f}"
    mantissa, exponent = f"{kl:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def seconds_text(seconds: float) -> str:
    """0.42 -> "0.42 s", 83 -> "1 min 23 s", 4000 -> "1 h 07 min"."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
