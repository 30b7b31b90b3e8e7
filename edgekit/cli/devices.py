"""edgekit devices: the profiles, a look at a live device, and fitting a profile to benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text
from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from edgekit.devices.answer import Probe
    from edgekit.devices.calibrate import Calibration
    from edgekit.devices.profile import Device

EXAMPLES = (
    "edgekit devices",
    "edgekit devices show pi4b",
    "edgekit devices probe ssh:pi@192.168.1.20 -o my-board.toml",
    "edgekit devices calibrate my-board.toml q4_0.json q8_0.json",
)

group = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

ProfileArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A profile, by name or as a .toml file.", show_default=False)
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="The .toml file to write.", show_default=False)
]


@group.callback(invoke_without_command=True)
def command(context: typer.Context, as_json: options.Json = False, debug: options.Debug = False) -> None:
    """List the device profiles; show or make one.

    Without a COMMAND, the profiles that there are.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise InputError(f"--json stands before {context.invoked_subcommand}: write it behind")
        return
    from edgekit.devices.profile import device_names, load_device

    with output.stdout_reserved(as_json):
        profiles = [load_device(each) for each in device_names()]
    if as_json:
        output.print_json({"devices": profiles})
    else:
        _print_all(profiles)


@group.command("show", epilog="Example:  edgekit devices show pi4b")
def show(name: ProfileArgument, as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Show one profile and the source of each figure."""
    from edgekit.devices.profile import load_device

    with output.stdout_reserved(as_json):
        device = load_device(name)
    if as_json:
        output.print_json(output.plain(device))
    else:
        _print_one(device)


@group.command("probe", epilog="Example:  edgekit devices probe ssh:pi@192.168.1.20 -o my-board.toml")
def probe(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="ssh:USER@HOST, adb:SERIAL, local, or a .toml file that says how the device is reached.",
            show_default=False,
        ),
    ],
    profile: OutputOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Ask a live device what it is; write a profile of it.

    Exit code 6 where it cannot be reached.
    """
    if profile is not None:
        options.check_output(profile, ".toml")
    from edgekit.devices.probed import profile_text
    from edgekit.devices.remote import probe
    from edgekit.devices.target import Target
    from edgekit.models.files import atomic_write

    with output.stdout_reserved(as_json):
        reached = Target.parse(target)
        facts = probe(reached)
    if profile is not None:
        with atomic_write(profile) as file:
            file.write(profile_text(reached, facts).encode())
    if as_json:
        output.print_json(output.plain(facts))
    else:
        _print_probe(facts, profile)


@group.command("calibrate", epilog="Example:  edgekit devices calibrate my-board.toml q4_0.json q8_0.json")
def calibrate(
    name: Annotated[
        str, typer.Argument(metavar="PROFILE", help="The device's .toml file, or a profile's name.", show_default=False)
    ],
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT...", help="What edgekit bench -o FILE.json wrote of that device.", show_default=False
        ),
    ],
    profile: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The .toml file to write.  [default: PROFILE itself]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take degraded results too.")] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Fit a profile to benchmarks of its device.

    The usable bandwidth, and the cycles of types that results of different files tell apart; one result tells the
    bandwidth alone. The rest of the profile stays as it is.
    """
    if profile is not None:
        options.check_output(profile, ".toml")
    from edgekit.devices.calibrate import calibrate, figures_of, profile_to_fit
    from edgekit.devices.profile import is_own
    from edgekit.devices.profile_edit import with_figures
    from edgekit.devices.stored import read_result
    from edgekit.models.files import atomic_write

    device, path = profile_to_fit(name)
    if profile is None and is_own(path):
        raise InputError(f"{name} is one of edgekit's own profiles: name a file of yours with -o {name}.toml")
    taken = {str(each): read_result(each) for each in results}
    calibration = calibrate(device, taken, force=force)
    text = with_figures(path.read_text(encoding="utf-8"), *figures_of(calibration, list(taken.values())), str(path))
    with atomic_write(profile or path) as file:
        file.write(text.encode())
    if as_json:
        output.print_json({"path": profile or path, **output.plain(calibration)})
    else:
        _print_calibration(device, calibration, profile or path)


def _print_calibration(before: Device, calibration: Calibration, path: Path) -> None:
    after = calibration.device
    facts = [("wrote", str(path)), ("bandwidth", f"{_gigabytes(before)} -> {_gigabytes(after)}")]
    for name in calibration.fitted[1:]:
        old, new = (device.cycles_per_block.get(name.lower()) for device in (before, after))
        facts.append((f"cycles, {name.lower()}", f"{'not known' if old is None else old} -> {new}"))
    output.print_facts([*facts, *(("note", note) for note in calibration.notes)])
    print()
    lines = [
        (
            each.model,
            *("-" if math.isnan(tps) else f"{tps:.1f}" for tps in (each.measured_tps, each.before_tps, each.after_tps)),
        )
        for each in calibration.agreement
    ]
    output.print_table(("decode, tok/s", "measured", "before", "after"), lines)


def _gigabytes(device: Device) -> str:
    found = device.bandwidth_bytes_per_s
    return "not known" if math.isnan(found) else f"{found / 1e9:.2f} GB/s"


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
                None
                if profile is None
                else f"{profile}, without bandwidth_bytes_per_s: edgekit devices calibrate fits it",
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
            _llama_cpp(device) or "-",
            str(device.cores),
            " ".join(device.isa),
        )
        for device in profiles
    ]
    output.print_table(("name", "device", "RAM", "bandwidth", "llama.cpp", "cores", "ISA"), lines, left=2)


def _llama_cpp(device: Device) -> str | None:
    seen = device.llama_cpp_bytes_per_s
    return None if seen is None else f"{seen / 1e9:.1f} GB/s"


def _print_one(device: Device) -> None:
    seen, cycles = _llama_cpp(device), device.cycles_per_block
    facts = [
        ("name", device.name),
        ("device", device.title),
        ("RAM", bytes_text(device.ram_bytes)),
        ("bandwidth", f"{device.bandwidth_bytes_per_s / 1e9:.1f} GB/s usable by decoding"),
        ("llama.cpp", None if seen is None else f"{seen} reached by its decoding"),
        ("cores", str(device.cores)),
        ("clock", None if device.clock_hz is None else f"{device.clock_hz / 1e9:.2f} GHz"),
        ("cycles", ", ".join(f"{name} {value:g}" for name, value in cycles.items()) or None),
        ("ISA", " ".join(device.isa)),
    ]
    output.print_facts([*facts, *((f"source of {key}", text) for key, text in device.sources.items())])
