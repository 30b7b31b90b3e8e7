"""Stands in for `adb` in tests: this machine as the phone, with the ways of adb 29.

The first line (the interpreter) is added where it is copied to. FAKE_ADB in the environment is a folder: a file "dies"
in it holds a word, and the first command with that word loses the daemon in its middle: exit code 0, half the output.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_ADB"])


def dies(command):
    """Whether the daemon dies in this command; once, unless the file says "for ever" on a second line."""
    file = STATE / "dies"
    if not file.exists():
        return False
    word, *more = file.read_text().splitlines()
    if word not in command:
        return False
    if not more:
        file.unlink()
    return True


def main(arguments):
    with (STATE / "log").open("a") as log:
        log.write(repr(arguments) + "\n")
    if arguments[:1] != ["-s"] or arguments[1] != "emulator-5554":
        print(f"adb: device '{arguments[1]}' not found", file=sys.stderr)
        return 1
    command, rest = arguments[2], arguments[3:]
    if command == "push":
        if dies("push"):
            Path(rest[1]).write_bytes(Path(rest[0]).read_bytes()[:1000])
            return 0
        if (STATE / "full").exists():
            Path(rest[1]).write_bytes(Path(rest[0]).read_bytes()[:1000])
            print(
                f"adb: error: failed to copy '{rest[0]}' to '{rest[1]}': remote write failed: No space left on device"
            )
            print(f"{rest[0]}: 0 files pushed, 0 skipped. 173.0 MB/s (573416 bytes in 0.003s)")
            return 1
        shutil.copyfile(*rest)
        print("1 file pushed")
        return 0
    assert command == "shell" and rest[0] == "-T", arguments
    line = " ".join(rest[1:])  # as adb joins them
    path = f"{STATE}/phone:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=False, env={**os.environ, "PATH": path})
    if dies(line):
        sys.stdout.buffer.write(done.stdout[: len(done.stdout) // 2])
        return 0
    sys.stdout.buffer.write(done.stdout)
    sys.stderr.buffer.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
