"""Builds `edgekit-bench`, static, for the devices that it runs on: `make runner` runs this, a benchmark imports it.

    python devices/build_runner.py [--with zig|gcc] [aarch64|x86_64]

With zig, where this Python has the package ziglang, else with GCC. The standard library alone is needed, and the
programs cmake and ninja, whose Python packages do.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MACHINES = ("aarch64", "x86_64")  # as `uname -m` names them
_HERE = Path(__file__).resolve().parent
SOURCE = _HERE.parent / "native"  # in a checkout; the wheel carries it at the same place
IN_CHECKOUT = (_HERE.parent / "pyproject.toml").is_file()
_PARTS = ("CMakeLists.txt", "cmake", "include", "src", "tools/bench")  # what it is built from
_STEP = re.compile(r"\[(\d+)/(\d+)\] ")


class CannotBuild(Exception):
    """One sentence that says what is missing, or what the compiler said."""


def default_folder() -> Path:
    """build/runner of a checkout, else a folder in the user's cache."""
    if IN_CHECKOUT:
        return _HERE.parent / "build" / "runner"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit" / "runner"


def runner_path(machine: str, folder: Path) -> Path:
    """Where it is, or will be."""
    return folder / f"edgekit-bench-{machine}"


def is_current(machine: str, folder: Path) -> bool:
    """Whether it was built from the sources as they are now."""
    made_from = _mark(machine, folder)
    return (
        runner_path(machine, folder).is_file()
        and made_from.is_file()
        and made_from.read_text(encoding="utf-8") == source_digest()
    )


def source_digest() -> str:
    """sha256 over names and contents of the sources."""
    total = hashlib.sha256()
    for part in _PARTS:
        path = SOURCE / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                content = file.read_bytes()
                total.update(f"{file.relative_to(SOURCE).as_posix()}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def build(machine: str, folder: Path, progress: Callable[[int, int], None], compiler: str | None = None) -> Path:
    """Make FOLDER/edgekit-bench-MACHINE; it appears when it is whole.

    `progress` hears of steps done and steps in all. `compiler`: "zig" or "gcc", None for what is here. Raises
    CannotBuild.
    """
    compiler = compiler or ("zig" if importlib.util.find_spec("ziglang") else "gcc")
    options = _options(machine, compiler)
    cmake, ninja = _program("cmake"), _program("ninja")
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f"{compiler}-{machine}"
    with _locked(folder / f".{compiler}-{machine}.lock"):
        digest = source_digest()
        configure = [cmake, "-S", str(SOURCE), "-B", str(work), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        _run([*configure, "-DEDGEKIT_RUNNER=ON", "-DCMAKE_EXE_LINKER_FLAGS=-static -s", *options], lambda line: None)

        def heard(line: str) -> None:
            if step := _STEP.match(line):
                progress(int(step[1]), int(step[2]))

        _run([ninja, "-C", str(work), *_jobs(), "edgekit-bench"], heard)
        part = folder / f".edgekit-bench-{machine}.{os.getpid()}"
        shutil.copy(work / "edgekit-bench", part)
        _mark(machine, folder).unlink(missing_ok=True)
        part.replace(runner_path(machine, folder))
        _mark(machine, folder).write_text(digest, encoding="utf-8")
    return runner_path(machine, folder)


def _mark(machine: str, folder: Path) -> Path:
    return folder / f"edgekit-bench-{machine}.source"


def _options(machine: str, compiler: str) -> list[str]:
    if compiler == "zig":
        return [f"-DCMAKE_TOOLCHAIN_FILE={SOURCE}/cmake/{machine}-musl-zig.cmake", f"-DZIG_PYTHON={sys.executable}"]
    cross = f"{machine}-linux-gnu-gcc"
    if shutil.which(cross):
        return [f"-DCMAKE_TOOLCHAIN_FILE={SOURCE}/cmake/{machine}-linux-gnu.cmake"]
    if platform.system() == "Linux" and platform.machine() == machine and shutil.which("cc"):
        return []
    raise CannotBuild(f"there is neither the Python package ziglang nor {cross} here: pip install ziglang cmake ninja")


def _program(name: str) -> str:
    """Of this Python's environment first, as its packages of that name bring them."""
    found = shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if found is None:
        raise CannotBuild(f"{name} is not installed: pip install ziglang cmake ninja")
    return found


def _jobs() -> list[str]:
    return ["-j", os.environ["JOBS"]] if os.environ.get("JOBS") else []


def _run(command: list[str], heard: Callable[[str], None]) -> None:
    """CannotBuild with the last lines that it said, if it fails."""
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            heard(line)
            lines = [*lines[-19:], line]
    if process.returncode != 0:
        raise CannotBuild(f"{Path(command[0]).name} failed:\n{''.join(lines).rstrip()}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One build at a time in one folder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """The command line above; exit status 1 where one cannot be built, the others are built all the same."""
    parser = argparse.ArgumentParser(description="Build the static edgekit-bench.")
    parser.add_argument("--with", dest="compiler", choices=("zig", "gcc"))
    parser.add_argument("machine", nargs="?", choices=MACHINES, help="both where it is left out")
    given = parser.parse_args()
    failed = False
    for machine in [given.machine] if given.machine else MACHINES:
        try:
            made = build(machine, default_folder(), lambda done, of: None, given.compiler)
        except CannotBuild as error:
            print(f"{machine}: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{machine}: built {made}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
