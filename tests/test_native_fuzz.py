"""The fuzzers of native/fuzz, for a few seconds each, under AddressSanitizer and UndefinedBehaviorSanitizer.

For longer: build/native-tests/fuzz/gguf_fuzz -dict=seeds/gguf.dict FOUND seeds/gguf, where fuzz_seeds made seeds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[1] / "native"
BUILD = NATIVE.parent / "build" / "native-tests" / "fuzz"
FUZZERS = tuple(sorted(path.stem for path in (NATIVE / "fuzz").glob("*_fuzz.c")))
SECONDS = 6


def run(*command: object) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1200, check=False)
    assert result.returncode == 0, f"{result.args} ended with {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@cache
def built() -> Path:
    """The folder of the fuzzers, with their seeds."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    cmake, ninja = shutil.which("cmake", path=path), shutil.which("ninja", path=path)
    if cmake is None or shutil.which("clang-19") is None:
        pytest.skip("cmake or clang-19 is not installed (Debian: cmake clang-19 libclang-rt-19-dev)")
    if not list(Path(run("clang-19", "--print-resource-dir").strip()).rglob("libclang_rt.fuzzer*")):
        pytest.skip("clang-19 has no libFuzzer (Debian: libclang-rt-19-dev)")
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()
    options = ("-DCMAKE_C_COMPILER=clang-19", "-DEDGEKIT_FUZZ=ON", "-DEDGEKIT_SANITIZE=address,undefined")
    run(cmake, "-S", NATIVE, "-B", BUILD, *generator, *options)
    run(cmake, "--build", BUILD, "--parallel", os.cpu_count() or 1, "--target", *FUZZERS, "fuzz_seeds")
    run(BUILD / "fuzz_seeds", BUILD / "seeds")
    return BUILD


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_no_input_breaks_it(fuzzer: str, tmp_path: Path) -> None:
    """Every seed, then what libFuzzer makes of them; a finding is written to tmp_path."""
    seeds = built() / "seeds" / fuzzer.removesuffix("_fuzz")
    begin = (seeds,) if seeds.is_dir() else ()
    found = tmp_path / "found"
    found.mkdir()
    options = (f"-max_total_time={SECONDS}", "-max_len=65536", "-timeout=60", f"-artifact_prefix={tmp_path}/")
    output = run(built() / fuzzer, f"-dict={built()}/seeds/gguf.dict", *options, found, *begin)
    assert "Done" in output
    reached = [int(count) for count in re.findall(r"cov: (\d+)", output)]
    assert reached[-1] > 300, "the seeds do not get past the first checks"
