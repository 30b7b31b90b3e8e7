"""The device that a benchmark runs on: how it is reached and how it runs there, from a profile or one word."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.devices.profile import CONNECTION, Device, load_device, read_profile
from edgekit.models.errors import InputError

ABIS = ("aarch64", "x86_64")  # what there are runners for, as `uname -m` spells it
# What reaches a program's command line begins with a letter or digit, so that it is never taken for an option.
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:()\[\]-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]{1,45}(%[A-Za-z0-9_.-]{1,15})?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SSH = re.compile(r"(?:(?P<user>[^@]*)@)?(?:\[(?P<ip6>[^\]]*)\]|(?P<host>[^:]*))(?::(?P<port>[0-9]{1,5}))?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SENSOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_AFFINITY = re.compile(r"big|all|[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")


@dataclass(frozen=True)
class Cooldown:
    """Before each repetition: wait until the sensor (None: the hottest) reads at most max_c degrees, or timeout_s."""

    max_c: float
    timeout_s: float
    sensor: str | None = None


@dataclass(frozen=True)
class Target:
    """A device of a benchmark. `device` has its figures where the profile gives them; predictions need those."""

    name: str
    transport: str  # "local", "ssh" or "adb"
    workdir: str  # where files are put: absolute, or relative to where ssh starts
    serial: str | None = None  # of adb
    host: str | None = None  # of ssh, as are the next four
    port: int | None = None
    user: str | None = None
    identity_file: str | None = None
    known_hosts_file: str | None = None
    runner_prefix: tuple[str, ...] = ()  # put before the runner's command line, such as taskset or an emulator
    abi: str | None = None
    required_isa: tuple[str, ...] = ()
    affinity: str | None = None  # "big", "all" or a list such as "0,2-3"; None: the runner's own choice
    threads: int | None = None
    cooldown: Cooldown | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    emulated: bool = False  # as the profile says; the device itself is asked too
    tags: tuple[str, ...] = ()
    device: Device | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """ "local", "adb:SERIAL", "ssh:USER@HOST:PORT" (user and port may be left out), a profile's name or .toml file.

        Raises InputError for anything else, and for a profile that does not say how its device is reached.
        """
        kind, colon, rest = text.partition(":")
        if text == "local":
            return _target("local", {"transport": "local"}, "device 'local'")
        if colon and kind == "adb":
            return _target(text, {"transport": "adb", "serial": rest}, f"device {text!r}")
        if colon and kind == "ssh":
            match = _SSH.fullmatch(rest)
            if match is None:
                raise InputError(f"device {text!r}: write ssh:USER@HOST or ssh:USER@HOST:PORT")
            found = {"user": match["user"], "host": match["ip6"] or match["host"]}
            table = {key: value for key, value in found.items() if value is not None}
            if match["port"]:
                table["port"] = int(match["port"])
            return _target(text, {"transport": "ssh", **table}, f"device {text!r}")
        return _of_profile(text)


def _of_profile(text: str) -> Target:
    name, table, path = read_profile(text)
    this_machine = table.get("host") is True
    if "transport" not in table and not this_machine:
        raise InputError(
            f"{name} does not say how the device is reached: name it as ssh:USER@HOST or adb:SERIAL, or add a "
            "transport to a profile of your own (edgekit devices probe ssh:USER@HOST -o mine.toml)"
        )
    connection = {key: table[key] for key in (*CONNECTION, *(() if this_machine else ("host",))) if key in table}
    if this_machine:
        connection["transport"] = "local"
    figures = load_device(text) if this_machine or "bandwidth_bytes_per_s" in table else None
    return _target(name, connection, str(path), folder=path.parent, device=figures)


def _target(
    name: str, table: Mapping[str, Any], where: str, *, folder: Path | None = None, device: Device | None = None
) -> Target:
    """Every value checked: `where` names the option or file, `folder` is where its relative paths start."""
    values = _Values(table, where)
    transport = values.choice("transport", ("local", "ssh", "adb"))
    needed = {"local": (), "ssh": ("host",), "adb": ("serial",)}[transport]
    for key in needed:
        if key not in table:
            raise InputError(f"{where} has no {key}, which {transport} needs: add it")
    own = {"local": set(), "ssh": {"host", "port", "user", "identity_file", "known_hosts_file"}, "adb": {"serial"}}
    for key in sorted(set.union(*own.values()) - own[transport]):
        if key in table:
            raise InputError(f"{where}: {key} does not go with transport {transport!r}: drop it")
    threads = values.number("threads", 1, 1024, whole=True)
    port = values.number("port", 1, 65535, whole=True)
    return Target(
        name=name,
        transport=transport,
        workdir=_workdir(values, transport),
        serial=values.text("serial", _SERIAL),
        host=values.text("host", _HOST),
        port=None if port is None else int(port),
        user=values.text("user", _USER),
        identity_file=values.file("identity_file", folder),
        known_hosts_file=values.file("known_hosts_file", folder),
        runner_prefix=values.texts("runner_prefix"),
        abi=values.choice("abi", ABIS) if "abi" in table else None,
        required_isa=values.texts("required_isa"),
        affinity=_affinity(values),
        threads=None if threads is None else int(threads),
        cooldown=_cooldown(values),
        env=_env(values),
        emulated=values.flag("emulated"),
        tags=values.texts("tags"),
        device=device,
    )


def _workdir(values: _Values, transport: str) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = values.text("workdir")
    if given is None:
        defaults = {"local": str(cache / "edgekit-bench"), "ssh": ".cache/edgekit-bench"}
        return defaults.get(transport, "/data/local/tmp/edgekit")
    if given.startswith("~/") and transport == "local":
        given = str(Path(given).expanduser())
    elif given.startswith("~/") and transport == "ssh":
        return f"./{given[2:]}"  # commands start in the home folder, and no shell expands what is quoted
    if not given.startswith("/"):
        raise values.wrong("workdir", "must be a path that begins with / (or, but for adb, with ~/)")
    return given.rstrip("/") or "/"


def _affinity(values: _Values) -> str | None:
    given = values.table.get("affinity")
    if isinstance(given, list) and given and all(isinstance(cpu, int) and 0 <= cpu < 4096 for cpu in given):
        return ",".join(str(int(cpu)) for cpu in given)
    return values.text("affinity", _AFFINITY)


def _cooldown(values: _Values) -> Cooldown | None:
    if "cooldown" not in values.table:
        return None
    table = values.table["cooldown"]
    if not isinstance(table, dict) or not {"max_c", "timeout_s"} <= table.keys() <= {"max_c", "timeout_s", "sensor"}:
        raise values.wrong("cooldown", "must be a table of max_c, timeout_s and perhaps sensor")
    inner = _Values(table, f"{values.where}: cooldown")
    max_c, timeout_s = inner.number("max_c", 0, 150), inner.number("timeout_s", 0, 3600)
    assert max_c is not None and timeout_s is not None
    return Cooldown(max_c, timeout_s, inner.text("sensor", _SENSOR))


def _env(values: _Values) -> dict[str, str]:
    table = values.table.get("env", {})
    if not isinstance(table, dict) or not all(isinstance(text, str) and _clean(text) for text in table.values()):
        raise values.wrong("env", "must be a table of texts on one line")
    for name in table:
        if not _VARIABLE.fullmatch(name):
            raise values.wrong("env", f"has {name!r}, which is no name of a variable")
    return dict(table)


def _clean(text: str) -> bool:
    """One line without control characters."""
    return text.isprintable()


@dataclass(frozen=True)
class _Values:
    """A table's values, each with the check that it needs; `where` begins every message."""

    table: Mapping[str, Any]
    where: str

    def wrong(self, key: str, what: str) -> InputError:
        return InputError(f"{self.where}: {key} {what}")

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str | None:
        if key not in self.table:
            return None
        value = self.table[key]
        if not isinstance(value, str) or not value or not _clean(value):
            raise self.wrong(key, "must be a text on one line")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.wrong(key, f"is {value!r}, which cannot be one: check its spelling")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item and _clean(item) for item in value):
            raise self.wrong(key, "must be a list of texts, each on one line")
        return tuple(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.table.get(key)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(key, f"must be one of {', '.join(choices)}")
        return value

    def number(self, key: str, low: float, high: float, *, whole: bool = False) -> float | None:
        if key not in self.table:
            return None
        value = self.table[key]
        good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not low <= value <= high:
            raise self.wrong(key, f"must be a{' whole' if whole else ''} number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.table.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def file(self, key: str, folder: Path | None) -> str | None:
        """An absolute path that ssh takes as it is: its own %, ${} and quotes have no place in it."""
        value = self.text(key)
        if value is None:
            return None
        path = (folder or Path()) / Path(value).expanduser()
        if any(mark in str(path.absolute()) for mark in '%$"\\'):
            raise self.wrong(
                key, f"is {value!r}: ssh gives %, $, quotes and backslashes a meaning, choose another path"
            )
        if not path.is_file():
            raise self.wrong(key, f"is {value!r}, where there is no file: check the path")
        return str(path.absolute())
