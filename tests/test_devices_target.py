"""A target from one word or a profile, and hostile texts in every place of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.devices.profile import CONNECTION
from edgekit.devices.target import Cooldown, Target
from edgekit.devices.transports import TRANSPORTS, open_transport
from edgekit.devices.transports.adb import Adb
from edgekit.devices.transports.ssh import Ssh
from edgekit.models.errors import InputError

NEEDED = {"local": "", "ssh": 'host = "board"', "adb": 'serial = "R58M"'}


def parse(tmp_path: Path, text: str) -> Target:
    path = tmp_path / "board.toml"
    path.write_text(text)
    return Target.parse(str(path))


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("ssh:pi@board", "pi", "board", None),
        ("ssh:board", None, "board", None),
        ("ssh:pi@10.0.0.2:2222", "pi", "10.0.0.2", 2222),
        ("ssh:[fe80::1%eth0]:22", None, "fe80::1%eth0", 22),
        ("ssh:pi@[::1]", "pi", "::1", None),
    ],
)
def test_ssh(text: str, user: str | None, host: str, port: int | None) -> None:
    target = Target.parse(text)
    assert (target.transport, target.user, target.host, target.port) == ("ssh", user, host, port)
    assert not target.workdir.startswith(("/", "~"))
    client = open_transport(target).client  # type: ignore[attr-defined]
    assert client[0] == "ssh" and client[-2:] == ("--", host)
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ControlPath=none"} <= set(client)


def test_adb_and_local() -> None:
    target = Target.parse("adb:192.168.1.5:5555")
    assert (target.transport, target.serial, target.workdir) == ("adb", "192.168.1.5:5555", "/data/local/tmp/edgekit")
    assert Adb(target).client == ("adb", "-s", "192.168.1.5:5555")
    assert Target.parse("local").workdir.endswith("/edgekit-bench")
    assert Target.parse("host").transport == "local"  # this machine, with its figures
    assert Target.parse("host").device is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ssh:", "host"),
        ("ssh:-oProxyCommand=touch x", "host"),
        ("ssh:@board", "user"),
        ("ssh:-l@board", "user"),
        ("ssh:a b@board", "user"),
        ("ssh:board; touch x", "host"),
        ("ssh:$(touch x)", "host"),
        ("ssh:board\ntouch", "host"),
        ("ssh:board:0", "port"),
        ("ssh:board:99999", "port"),
        ("ssh:board:2x", "write ssh:"),
        ("adb:", "serial"),
        ("adb:-s", "serial"),
        ("adb:a b", "serial"),
        ("adb:$(x)", "serial"),
        ("pi4b", "does not say how the device is reached"),
        ("toaster", "there is no device 'toaster'"),
        ("telnet:board", "there is no device"),
    ],
)
def test_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        Target.parse(text)
    assert "\n" not in str(error.value)


def test_a_whole_profile(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "known").touch()
    target = parse(
        tmp_path,
        """transport = "ssh"
host = "board"
port = 22
user = "pi"
identity_file = "key"
known_hosts_file = "known"
workdir = "~/bench"
runner_prefix = ["taskset", "f0"]
abi = "aarch64"
required_isa = ["dotprod"]
affinity = [0, 2]
threads = 2
emulated = true
tags = ["fan"]
cooldown = { max_c = 50, timeout_s = 60.5, sensor = "cpu-thermal" }
env = { OMP_NUM_THREADS = "1" }
""",
    )
    assert target.name == "board" and target.workdir == "./bench" and target.affinity == "0,2"
    assert target.cooldown == Cooldown(50, 60.5, "cpu-thermal") and target.env == {"OMP_NUM_THREADS": "1"}
    assert target.emulated and target.threads == 2 and target.abi == "aarch64" and target.device is None
    settings = Ssh(target).client
    for wanted in (
        f'IdentityFile="{tmp_path / "key"}"',
        f'UserKnownHostsFile="{tmp_path / "known"}"',
        "GlobalKnownHostsFile=none",
        "IdentitiesOnly=yes",
        "Port=22",
        "User=pi",
    ):
        assert settings[settings.index(wanted) - 1] == "-o"


# What no text of a profile may be; what is not refused here reaches a shell quoted, as the transports' tests show.
HOSTILE = ("a\nb", "a\0b", "\x1b[2J", "")
IN_A_COMMAND_LINE = ("-x", "--", "; touch x", "$(touch x)", "`touch x`", "a b", "a'b", 'a"b')


def fields(text: str) -> dict[str, str]:
    """Every key of a profile that takes texts, holding this one."""
    quoted = json.dumps(text)
    plain = ("host", "serial", "user", "identity_file", "known_hosts_file", "workdir", "abi", "affinity")
    lists = {key: f"{key} = [{quoted}]" for key in ("runner_prefix", "required_isa", "tags")}
    env = {"env": f"env = {{ A = {quoted} }}", "env name": f"env = {{ {quoted} = 'a' }}"}
    cooldown = {"cooldown": f"cooldown = {{ max_c = 1, timeout_s = 1, sensor = {quoted} }}"}
    return {key: f"{key} = {quoted}" for key in plain} | lists | env | cooldown


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("field", fields(""))
def test_control_characters_are_refused_everywhere(field: str, text: str, tmp_path: Path) -> None:
    if field == "env" and text == "":
        return  # a variable may be empty
    for transport, needed in NEEDED.items():
        line = fields(text)[field]
        own = "" if needed.split(" ")[0] == line.split(" ")[0] else needed
        with pytest.raises(InputError) as error:
            parse(tmp_path, f'transport = "{transport}"\n{own}\n{line}\n')
        assert str(error.value).isprintable()


@pytest.mark.parametrize("text", IN_A_COMMAND_LINE)
@pytest.mark.parametrize("field", ["host", "serial", "user", "abi", "affinity", "env name", "cooldown", "workdir"])
def test_no_word_is_taken_for_an_option_or_a_command(field: str, text: str, tmp_path: Path) -> None:
    transport = "adb" if field == "serial" else "ssh"
    line = fields(text)[field]
    own = "" if field == "host" or transport == "adb" else NEEDED["ssh"]
    with pytest.raises(InputError):
        parse(tmp_path, f'transport = "{transport}"\n{own}\n{line}\n')


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('transport = "telnet"', "must be one of local, ssh, adb"),
        ('transport = "ssh"', "has no host"),
        ('transport = "adb"', "has no serial"),
        ('transport = "local"\nhost = "board"', "does not go with"),
        ('transport = "local"\nserial = "R58M"', "does not go with"),
        ('transport = "ssh"\nhost = "b"\nport = 70000', "port must be"),
        ('transport = "ssh"\nhost = "b"\nport = true', "port must be"),
        ('transport = "ssh"\nhost = "b"\nidentity_file = "none"', "there is no file"),
        ('transport = "ssh"\nhost = "b"\nidentity_file = "%h"', "%, \\$, quotes"),
        ('transport = "local"\nworkdir = "here"', "begins with /"),
        ('transport = "local"\naffinity = [-1]', "affinity"),
        ('transport = "local"\naffinity = "1-"', "affinity"),
        ('transport = "local"\nthreads = 0', "threads must be"),
        ('transport = "local"\nemulated = "yes"', "emulated must be true or false"),
        ('transport = "local"\ntags = "a"', "tags must be a list"),
        ('transport = "local"\nenv = { A = 1 }', "env must be"),
        ('transport = "local"\ncooldown = { max_c = 50 }', "cooldown must be a table"),
        ('transport = "local"\ncooldown = { max_c = nan, timeout_s = 1 }', "max_c must be"),
    ],
)
def test_a_profile_with_a_mistake(line: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        parse(tmp_path, f"{line}\n")


def test_every_transport_is_listed_and_every_key_is_read(tmp_path: Path) -> None:
    assert [name for name, _ in TRANSPORTS] == list(NEEDED)
    assert set(CONNECTION) - {"transport"} <= Target.__dataclass_fields__.keys()
