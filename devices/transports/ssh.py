"""A device over OpenSSH's `ssh`, so that ~/.ssh/config, agents and jump hosts work as usual."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.devices.target import Target
from edgekit.devices.transports.remote_shell import read_file, run_shell
from edgekit.devices.transports.transport import Ran

# Never a question; never an unknown host key; nothing forwarded or shared with other connections; a dead link is
# noticed after 15 s.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "EscapeChar": "none",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
}


class Ssh:
    """Each command is a connection of its own: one that breaks takes no other with it."""

    def __init__(self, target: Target) -> None:
        assert target.host is not None
        options = dict(_OPTIONS)
        if target.known_hosts_file is not None:  # that file and no other
            options |= {"UserKnownHostsFile": f'"{target.known_hosts_file}"', "GlobalKnownHostsFile": "none"}
        if target.identity_file is not None:
            options |= {"IdentityFile": f'"{target.identity_file}"', "IdentitiesOnly": "yes"}
        if target.port is not None:
            options["Port"] = str(target.port)
        if target.user is not None:
            options["User"] = target.user
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        self.client = ("ssh", *settings, "--", target.host)

    def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        return run_shell(self.client, argv, timeout_s=timeout_s)

    def push(self, local: Path, remote: str, timeout_s: float) -> Ran:
        with local.open("rb") as file:
            return run_shell(self.client, ["cat"], timeout_s=timeout_s, stdin=file, output_to=remote)

    def pull(self, remote: str, limit_bytes: int, timeout_s: float) -> bytes:
        return read_file(self.client, remote, limit_bytes, timeout_s)
