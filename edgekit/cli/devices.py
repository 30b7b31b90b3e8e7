"""edgekit devices: the profiles."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text

EXAMPLES = ("edgekit devices", "edgekit devices pi4b", "edgekit devices my-board.toml --json")


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One profile, by name or as a .toml file.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the device profiles.

    With NAME, one of them and the source of each figure.
    """
    from edgekit.devices.profile import device_names, load_device

    with output.stdout_reserved(as_json):
        profiles = [load_device(each) for each in (device_names() if name is None else (name,))]
    if as_json:
        output.print_json({"devices": profiles} if name is None else output.plain(profiles[0]))
    elif name is None:
        lines = [
            (
                device.name,
                device.title,
                bytes_text(device.ram_bytes),
                f"{device.bandwidth_bytes_per_s / 1e9:.1f} GB/s",
                str(device.cores),
                " ".join(device.isa),
            )
            for device in profiles
        ]
        output.print_table(("name", "device", "RAM", "bandwidth", "cores", "ISA"), lines, left=2)
    else:
        device = profiles[0]
        facts = [
            ("name", device.name),
            ("device", device.title),
            ("RAM", bytes_text(device.ram_bytes)),
            ("bandwidth", f"{device.bandwidth_bytes_per_s / 1e9:.1f} GB/s usable by decoding"),
            ("cores", str(device.cores)),
            ("ISA", " ".join(device.isa)),
        ]
        output.print_facts([*facts, *((f"source of {key}", text) for key, text in device.sources.items())])
