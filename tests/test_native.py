"""The C library's own tests, native/tests: here, under the sanitizers, and under qemu on three ARM processors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "native"
BUILD = ROOT / "build" / "native-tests"
PROGRAMS = tuple(sorted(path.stem for path in (NATIVE / "tests").glob("*_test.c")))
THREADED = tuple(
    name for name in PROGRAMS if "pthread" in (text := (NATIVE / "tests" / f"{name}.c").read_text()) or "pool.h" in text
)

# Options of each build. The sanitizers stop at the first finding.
BUILDS = {
    "native": ("-DEDGEKIT_BENCH=ON",),
    "address": ("-DEDGEKIT_SANITIZE=address,undefined",),
    "thread": ("-DEDGEKIT_SANITIZE=thread",),
    "arm": (f"-DCMAKE_TOOLCHAIN_FILE={NATIVE}/cmake/aarch64-linux-gnu.cmake", "-DCMAKE_EXE_LINKER_FLAGS=-static"),
}

# What each emulated processor can run, best last; qemu traps the instructions that it cannot.
PROCESSORS = {
    "cortex-a72": "scalar neon",
    "cortex-a76": "scalar neon dotprod",
    "max": "scalar neon dotprod i8mm",
}
CASES_UNDER_QEMU = "20"

# Whole models and what has nothing to do with kernels: slow under qemu, so with few cases on the processor that has
# every level alone. test_native_accuracy.py decodes on all three.
ON_ONE = tuple(
    f"{name}_test"
    for name in (
        "api",
        "api_calls",
        "cache",
        "decoder",
        "gguf",
        "model",
        "model_refusals",
        "pool",
        "quantize",
        "runner",
        "sampler",
    )
)
CASES_OF_MODELS = "4"
EMULATED = [
    (program, processor)
    for program in PROGRAMS
    for processor in PROCESSORS
    if program not in ON_ONE or processor == "max"
]
SKIPPED = 77


def tool(name: str) -> str | None:
    """cmake and ninja may be Python packages of this environment."""
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "EDGEKIT_ISA"} | variables
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, env=environment, check=False
    )


def demand(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, f"{result.args} ended with {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@cache
def build(name: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of that build's programs, and how its last step went: a build that fails is not tried again."""
    cmake = tool("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    if name == "arm":
        for needed in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
            if shutil.which(needed) is None:
                pytest.skip(
                    f"{needed} is not installed (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"
                )
    folder = BUILD / name
    ninja = tool("ninja")
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()
    configured = run(cmake, "-S", NATIVE, "-B", folder, *generator, "-DEDGEKIT_TESTS=ON", *BUILDS[name])
    if configured.returncode != 0:
        return folder, configured
    targets = ("--target", *THREADED) if name == "thread" else ()
    return folder, run(cmake, "--build", folder, "--parallel", os.cpu_count() or 1, *targets)


def built(name: str) -> Path:
    folder, result = build(name)
    demand(result)
    return folder


def levels(output: str) -> str:
    return output.splitlines()[0].removeprefix("levels: ")


@pytest.mark.parametrize("program", PROGRAMS)
def test_here(program: str) -> None:
    demand(run(built("native") / program))


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_undefined_behaviour(program: str) -> None:
    demand(run(built("address") / program))


@pytest.mark.parametrize("program", THREADED)
def test_without_races(program: str) -> None:
    demand(run(built("thread") / program))


@pytest.mark.parametrize(("program", "processor"), EMULATED)
def test_emulated(program: str, processor: str) -> None:
    cases = CASES_OF_MODELS if program in ON_ONE else CASES_UNDER_QEMU
    output = demand(run("qemu-aarch64", "-cpu", processor, built("arm") / program, cases))
    assert levels(output) == PROCESSORS[processor]


def test_the_a72_has_no_dot_product(tmp_path: Path) -> None:
    """No level beyond neon is chosen there, and were a kernel to use its instructions, qemu would stop it."""
    program = built("arm") / "matmul_test"
    a72 = ("qemu-aarch64", "-cpu", "cortex-a72")
    for level in ("dotprod", "i8mm"):
        assert run(*a72, program, level).returncode == SKIPPED
    source = tmp_path / "trap.c"
    source.write_text('int main(void) { __asm__(".arch armv8.2-a+dotprod\\n sdot v0.4s, v0.16b, v0.16b"); return 0; }')
    demand(run("aarch64-linux-gnu-gcc", "-static", source, "-o", tmp_path / "trap"))
    assert run(*a72, tmp_path / "trap").returncode != 0
    assert run("qemu-aarch64", "-cpu", "cortex-a76", tmp_path / "trap").returncode == 0


def test_a_level_that_is_missing_is_skipped_and_nothing_tested_fails() -> None:
    foreign = "neon" if "avx2" in levels(demand(run(built("native") / "matmul_test", "scalar", "1"))) else "avx2"
    result = run(built("native") / "matmul_test", foreign)
    assert result.returncode == SKIPPED
    assert foreign in result.stdout
    assert run(built("native") / "matmul_test", "sse9").returncode == 2


def test_the_benchmark_measures_every_row(tmp_path: Path) -> None:
    here = levels(demand(run(built("native") / "matmul_test", "scalar", "1"))).split()
    listed = (NATIVE / "src" / "kernels" / "kernels.inc").read_text()
    rows = re.findall(r"^EK_KERNEL\((\w+), (\w+), (\w+)\)", listed, re.MULTILINE)
    path = tmp_path / "bench.json"
    output = demand(run(built("native") / "bench_kernels", "--emulated", "--seconds", "0.001", "--json", path))
    assert output.startswith("EMULATED")
    result = json.loads(path.read_text())
    assert result["emulated"] is True
    measured = [(row["operation"], row["type"], row["level"]) for row in result["rows"]]
    assert measured == [row for row in rows if row[2] in here]
    for row in result["rows"]:
        assert row.get("gb_per_s_best", row.get("gop_per_s_best", 0)) > 0, row
        assert row["operation"] not in ("gemv", "scores", "values") or row["limit_gb_per_s_best"] > 0
        assert row["operation"] != "gemm" or row["level"] == "scalar" or row["limit_gop_per_s_best"] > 0


def test_the_benchmark_refuses_what_it_cannot_do() -> None:
    bench = built("native") / "bench_kernels"
    for wrong in (("--level", "sse9"), ("--operation", "gemx"), ("--type", "q3_k"), ("--seconds", "x"), ("more",)):
        assert run(bench, *wrong).returncode == 2


def test_no_mutable_state() -> None:
    """The library keeps nothing between calls but the table of kernels, filled once."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("objdump is not installed")
    table = demand(run(objdump, "-t", built("native") / "libedgekit.a"))
    kept = set()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) >= 4 and " O " in line:  # address, flags, section, size, name
            section, name = fields[-3], fields[-1]
            if section.startswith((".data", ".bss", ".tdata", ".tbss", "*COM*")) and ".rel.ro" not in section:
                kept.add(name.partition(".")[0])
    assert kept == {"here", "have_here", "once"}
