"""Ways to a device, behind one Protocol; each calls the program that its users know (ssh, adb)."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.devices.target import Target
from edgekit.devices.transports import adb, local, ssh
from edgekit.devices.transports.transport import LostLink, Ran, Transport

__all__ = ["TRANSPORTS", "LostLink", "Ran", "Transport", "open_transport"]

# Name in a profile -> what opens it.
TRANSPORTS: tuple[tuple[str, Callable[[Target], Transport]], ...] = (
    ("local", local.Local),
    ("ssh", ssh.Ssh),
    ("adb", adb.Adb),
)


def open_transport(target: Target) -> Transport:
    """The transport that a target asks for; nothing is connected yet."""
    return dict(TRANSPORTS)[target.transport](target)
