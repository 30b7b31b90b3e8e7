"""The errors that a user can cause and mend; the CLI prints their one sentence and exits with their code."""

from __future__ import annotations


class InputError(ValueError):
    """The input cannot be used: the message names the file or option and the way out. Exit code 2."""


class MissingExtra(InputError):
    """An optional dependency is not installed; `extra` is the name in ``pip install 'edgekit[extra]'``."""

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is not installed: pip install 'edgekit[{extra}]'")


class TargetError(RuntimeError):
    """The output could not be written (no space, I/O error); nothing half-written is left. Exit code 1."""


class InfrastructureError(RuntimeError):
    """A device could not be reached, or what runs there failed; nothing was measured. Exit code 6."""


class InvalidResultError(RuntimeError):
    """Figures that prove nothing were to be used as evidence: nothing was decided. Exit code 5."""
