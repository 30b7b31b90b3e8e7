"""What boards and phones tell through programs of their own: who they are, whether they hold back."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.devices.transports import Transport
from edgekit.devices.verdict import pi_throttling

_ASK_S = 20.0
_ANDROID = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


@dataclass(frozen=True)
class Identity:
    """An Android device's name, and whether it says that it is an emulator; None where there is no getprop."""

    model: str | None
    emulated: bool | None


@dataclass(frozen=True)
class Throttling:
    """A Raspberry Pi's `vcgencmd get_throttled` and Android's thermal status; None where there is no such program."""

    pi_bits: int | None
    android_status: int | None


def identity(transport: Transport, kind: str) -> Identity:
    """Of an Android device, which is what adb reaches."""
    if kind != "adb":
        return Identity(None, None)
    maker = _said(transport, ["getprop", "ro.product.manufacturer"])
    if maker is None:
        return Identity(None, None)
    name = " ".join(filter(None, (maker, _said(transport, ["getprop", "ro.product.model"]))))
    qemu = [_said(transport, ["getprop", key]) for key in ("ro.boot.qemu", "ro.kernel.qemu")]
    return Identity(name or None, "1" in qemu)


def throttling(transport: Transport, kind: str) -> Throttling:
    """What the device says now: a phone where adb reaches it, else perhaps a Raspberry Pi."""
    if kind == "adb":
        android = re.search(r"Thermal Status: ([0-6])\b", _said(transport, ["dumpsys", "thermalservice"]) or "")
        return Throttling(None, int(android[1]) if android else None)
    pi = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", _said(transport, ["vcgencmd", "get_throttled"]) or "")
    return Throttling(int(pi[1], 16) if pi else None, None)


def held_back(before: Throttling, after: Throttling) -> list[str]:
    """One sentence for each sign that the device was slower than it can be."""
    bits = [bits for bits in (before.pi_bits, after.pi_bits) if bits is not None]
    signs = pi_throttling(bits) if bits else []
    worst = max(before.android_status or 0, after.android_status or 0)
    if worst > 0:
        signs.append(f"Android reported thermal throttling: {_ANDROID[worst]}")
    return signs


def _said(transport: Transport, argv: list[str]) -> str | None:
    done = transport.run(argv, _ASK_S)
    text = " ".join(done.stdout.split())
    return text[:4096] if done.returncode == 0 and not done.lost and text.isprintable() else None
