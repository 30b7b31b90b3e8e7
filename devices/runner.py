"""The program that runs on a device: `edgekit-bench`, one static file for each kind of processor."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from edgekit.devices.build_runner import CannotBuild, build, default_folder, is_current, runner_path
from edgekit.models.errors import InputError


def runner_file(machine: str) -> Path:
    """The runner for a machine as `uname -m` names it, built where that was not done yet or the sources are newer.

    Raises InputError where there is no compiler for it.
    """
    folder = default_folder()
    if is_current(machine, folder):
        return runner_path(machine, folder)
    with tqdm(desc=f"building edgekit-bench for {machine}, once", unit="file", disable=None) as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        try:
            return build(machine, folder, progress)
        except CannotBuild as error:
            raise InputError(f"the runner for {machine} cannot be built: {error}") from error
