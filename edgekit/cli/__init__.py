"""The command line: every command a thin call into the typed API, every heavy import inside a command."""

from __future__ import annotations

from edgekit.cli.app import main

__all__ = ["main"]
