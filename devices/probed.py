"""A profile written from what a live device tells of itself."""

from __future__ import annotations

import json

from edgekit.devices.answer import Probe
from edgekit.devices.target import ABIS, Target

_SOURCE = "read from the device by edgekit devices probe"
_FREE = """# A look at the device does not tell bandwidth_bytes_per_s, its usable memory bandwidth: edgekit devices
# calibrate fits it to benchmarks. With it, edgekit predicts speeds and plans files for this device.
"""


def profile_text(target: Target, facts: Probe) -> str:
    """The TOML file: the device's figures, and the way to it as `target` has it."""
    big = sum(core.big for core in facts.cores) or facts.online
    title = facts.model or facts.cpu or target.name
    cooldown = target.cooldown
    values: dict[str, object] = {
        "title": title,
        "isa": facts.isa or (facts.machine,),
        "cores": big,
        "ram_bytes": facts.ram_bytes,
        "transport": target.transport,
        "serial": target.serial,
        "host": target.host,
        "port": target.port,
        "user": target.user,
        "identity_file": target.identity_file,
        "known_hosts_file": target.known_hosts_file,
        "workdir": _workdir(target),
        "runner_prefix": target.runner_prefix,
        "abi": target.abi or (facts.machine if facts.machine in ABIS else None),
        "required_isa": target.required_isa,
        "affinity": target.affinity,
        "threads": target.threads,
        "emulated": target.emulated or bool(facts.emulated) or None,
        "tags": target.tags,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value not in (None, ())]
    if cooldown is not None:
        sensor = "" if cooldown.sensor is None else f", sensor = {_toml(cooldown.sensor)}"
        lines.append(f"cooldown = {{ max_c = {cooldown.max_c!r}, timeout_s = {cooldown.timeout_s!r}{sensor} }}")
    if target.env:
        lines += ["", "[env]", *(f"{name} = {_toml(value)}" for name, value in target.env.items())]
    sources = [f"{key} = {_toml(_SOURCE)}" for key in ("isa", "cores", "ram_bytes")]
    return _FREE + "\n".join([*lines, "", "[sources]", *sources, ""])


def _workdir(target: Target) -> str:
    """As a profile takes it: absolute, or from the home folder."""
    return target.workdir if target.workdir.startswith("/") else f"~/{target.workdir.removeprefix('./')}"


def _toml(value: object) -> str:
    """Texts, which have no control characters, lists of texts and numbers are spelled as in JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
