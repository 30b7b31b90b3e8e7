"""edgekit devices: the profiles, and a look at a live device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text
from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from edgekit.devices.answer import Probe
    from edgekit.devices.profile import Device

EXAMPLES = (
    "edgekit devices",
    "edgekit devices pi4b",
    "edgekit devices my-board.toml --json",
    "edgekit devices probe ssh:pi@192.168.1.20 -o my-board.toml",
)


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="One profile, by name or as a .toml file; or the word probe.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="With probe: ssh:USER@HOST, adb:SERIAL, local, or a .toml file that says how the device is reached.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="With probe: write a profile of the device.", show_default=False
        ),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the device profiles.

    With NAME, one of them and the source of each figure. With probe TARGET, what a live device tells of itself. Exit
    code 6 where it cannot be reached.
    """
    if name == "probe":
        _probe(target, profile, as_json)
        return
    for what, given in {f"TARGET {target}": target, f"-o {profile}": profile}.items():
        if given is not None:
            raise InputError(f"{what} goes with probe only: write edgekit devices probe TARGET")
    from edgekit.devices.profile import device_names, load_device

    with output.stdout_reserved(as_json):
        profiles = [load_device(each) for each in (device_names() if name is None else (name,))]
    if as_json:
        output.print_json({"devices": profiles} if name is None else output.plain(profiles[0]))
    elif name is None:
        _print_all(profiles)
    else:
        _print_one(profiles[0])


def _probe(text: str | None, profile: Path | None, as_json: bool) -> None:
    if text is None:
        raise InputError("probe needs a TARGET: ssh:USER@HOST, adb:SERIAL, local, or a profile's .toml file")
    if profile is not None:
        options.check_output(profile, ".toml")
    from edgekit.devices.probed import profile_text
    from edgekit.devices.remote import probe
    from edgekit.devices.target import Target
    from edgekit.models.files import atomic_write

    with output.stdout_reserved(as_json):
        target = Target.parse(text)
        facts = probe(target)
    if profile is not None:
        with atomic_write(profile) as file:
            file.write(profile_text(target, facts).encode())
    if as_json:
        output.print_json(output.plain(facts))
    else:
        _print_probe(facts, profile)


def _print_probe(facts: Probe, profile: Path | None) -> None:
    big = sum(core.big for core in facts.cores)
    emulated = {True: f"yes: {facts.emulated_why}", False: "no", None: "not known"}[facts.emulated]
    free = None if facts.disk_free_bytes is None else f"{bytes_text(facts.disk_free_bytes)} where models are put"
    output.print_facts(
        [
            ("device", facts.model or "not told"),
            ("processor", facts.cpu or "not told"),
            ("ISA", " ".join(facts.isa)),
            ("cores", f"{facts.online}, {big} of them big"),
            ("RAM", bytes_text(facts.ram_bytes)),
            ("pages", f"{facts.page_bytes} bytes"),
            ("free disk", free),
            ("system", f"{facts.os} {facts.kernel} {facts.machine}"),
            ("emulated", emulated),
            (
                "profile",
                None if profile is None else f"{profile}, without bandwidth_bytes_per_s, which is for you to add",
            ),
        ]
    )


def _print_all(profiles: Sequence[Device]) -> None:
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


def _print_one(device: Device) -> None:
    facts = [
        ("name", device.name),
        ("device", device.title),
        ("RAM", bytes_text(device.ram_bytes)),
        ("bandwidth", f"{device.bandwidth_bytes_per_s / 1e9:.1f} GB/s usable by decoding"),
        ("cores", str(device.cores)),
        ("ISA", " ".join(device.isa)),
    ]
    output.print_facts([*facts, *((f"source of {key}", text) for key, text in device.sources.items())])
