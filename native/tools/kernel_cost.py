"""Instructions and modelled cycles per block of every ARM kernel, from the hot loops labelled by src/kernels/cost.h.

    python native/tools/kernel_cost.py [--json build/kernel-cost.json] [--check]

Nothing here is measured: clang compiles the kernels with the flags that the build gives them, the instructions of the
labelled loops are counted, and llvm-mca's model of the core says in how many cycles a pass of each runs when it is
repeated. A block is 32 weights x 1 row x 1 token; in attention one position x query head x 32 dimensions, at 4 query
heads a group, scores and online softmax and values together.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import assembly
from assembly import CostError, Region

NATIVE = Path(__file__).resolve().parents[1]
KERNELS = NATIVE / "src" / "kernels"
CLANG, MCA = "clang-19", "llvm-mca-19"
PASSES = 200  # repetitions in the model: long enough that filling the pipeline does not show

# The core that stands for a level; the second of i8mm is for information, printed and not written.
CORES: Mapping[str, tuple[str, ...]] = {
    "neon": ("cortex-a72",),
    "dotprod": ("neoverse-n1",),
    "i8mm": ("neoverse-n1", "neoverse-n2"),
}
ATTENTION = ("scores", "online_softmax", "values")
HEAD_DIMS = 128  # of a query head: one exponential serves HEAD_DIMS / 32 blocks

# (operation, type, level) -> instructions and cycles per block: what was set as the goal, and what llama.cpp's kernels
# take by the same count (vec_dot where it has no kernel of several rows for the core).
TARGETS = {
    ("gemv", "q4_0", "neon"): (10.0, 5.0),
    ("gemv", "q4_0", "dotprod"): (6.75, 2.75),
    ("gemm", "q4_0", "neon"): (8.7, 4.46),
    ("gemm", "q4_0", "dotprod"): (3.9, 1.67),
    ("gemv", "q4_k", "neon"): (12.0, 6.0),
    ("gemv", "q4_k", "dotprod"): (8.5, 3.3),
} | {
    ("attention", t, level): (n, None)
    for t in ("f16", "q8_0", "q4_0")
    for level, n in (("neon", 24.0), ("dotprod", 12.0))
}
# Cycles in proportion to those of Q4_0, same operation and level.
RELATIVE = {"iq4_nl": 1.25, "q8_0": 1.25, "q5_0": 1.6, "q5_1": 1.6, "q5_k": 1.6, "q6_k": 1.6}
LLAMA_CPP = {
    ("gemv", "q4_0", "neon"): (29.0, 11.80),
    ("gemm", "q4_0", "neon"): (29.0, 11.80),
    ("gemv", "q4_k", "neon"): (27.0, 11.30),
    ("gemm", "q4_k", "neon"): (27.0, 11.30),
    ("gemv", "q4_0", "dotprod"): (8.5, 3.13),
    ("gemv", "q4_k", "dotprod"): (11.4, 3.64),
    ("gemm", "q4_0", "dotprod"): (4.0, 1.66),
    ("attention", "q8_0", "neon"): (94.0, 62.6),
    ("attention", "q4_0", "neon"): (226.0, 105.9),
}


@dataclass(frozen=True)
class Row:
    """A line of kernels.inc."""

    operation: str
    type: str
    level: str

    @property
    def function(self) -> str:
        return f"ek_{self.operation}_{self.type}_{self.level}"


@dataclass(frozen=True)
class Cost:
    kernel: str
    type: str
    op: str  # gemv, gemm, attention
    level: str
    cpu: str
    instructions: float  # per block
    cycles: float


def listed_rows(text: str) -> list[Row]:
    """The ARM rows of kernels.inc that have a cost."""
    rows = [Row(*groups) for groups in re.findall(r"^EK_KERNEL\((\w+), (\w+), (\w+)\)", text, re.MULTILINE)]
    return [row for row in rows if row.level in CORES and row.operation in ("gemv", "gemm", *ATTENTION)]


def type_names(header: str) -> list[str]:
    """The types of format.h in the order of ek_type, by which labels name them."""
    names = re.findall(r"^  EK_TYPE_(\w+),$", header, re.MULTILINE)
    if not names:
        raise CostError("no enum ek_type in format.h")
    return names


def compile_commands(build: Path) -> dict[Path, list[str]]:
    """What the build runs for each ARM kernel file: the flags have one home, CMakeLists.txt."""
    toolchain = NATIVE / "cmake" / "aarch64-clang.cmake"
    beside = Path(sys.executable).with_name("cmake")
    cmake = str(beside) if beside.exists() else "cmake"
    exporting = [
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    run([cmake, "-S", str(NATIVE), "-B", str(build), "-G", "Unix Makefiles", *exporting])
    commands = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = Path(entry["file"])
        if path.parent.parent == KERNELS and path.parent.name in CORES:
            commands[path] = shlex.split(entry["command"])
    return commands


def compiled(command: Sequence[str]) -> str:
    """The assembly of one file, with labels."""
    out = command.index("-o")
    words = [*command[:out], *command[out + 2 :]]
    return run([*(word for word in words if word != "-c"), "-S", "-DEK_COST", "-o", "-"])


def run(command: Sequence[str], text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CostError(f"{shlex.join(command)} failed:\n{done.stderr}")
    return done.stdout


def modelled_cycles(instructions: Iterable[str], cpu: str, level: str) -> float:
    """Cycles per pass of these instructions when they are repeated, by llvm-mca."""
    features = ["-mattr=+i8mm"] if level == "i8mm" else []
    command = [MCA, "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu}", *features, f"-iterations={PASSES}", "-json"]
    report = json.loads(run(command, "\n".join(instructions) + "\n"))
    return float(report["CodeRegions"][0]["SummaryView"]["TotalCycles"]) / PASSES


def regions_by_row(build: Path, only: str = "") -> dict[Row, list[Region]]:
    """Compiles the files that have `only` in their path; regions by the kernel that they are part of."""
    types = type_names((NATIVE / "src" / "format.h").read_text())
    kernels = {row.function for row in listed_rows((KERNELS / "kernels.inc").read_text())}
    found: dict[Row, list[Region]] = {}
    for path, command in sorted(compile_commands(build).items()):
        if only not in str(path):
            continue
        for region in assembly.regions(compiled(command)):
            row = Row(region.mark.operation, types[region.mark.type], path.parent.name)
            inlined_elsewhere = region.function in kernels and region.function != row.function
            if region.mark.blocks and not inlined_elsewhere:
                found.setdefault(row, []).append(region)
    return found


def row_cost(row: Row, regions: Sequence[Region], cpu: str) -> Cost:
    op = "attention" if row.operation in ATTENTION else row.operation
    per_block = HEAD_DIMS // 32 if row.operation == "online_softmax" else 1
    instructions = sum(len(region.instructions) / region.mark.blocks for region in regions) / per_block
    cycles = sum(modelled_cycles(r.instructions, cpu, row.level) / r.mark.blocks for r in regions) / per_block
    return Cost(row.function, row.type, op, row.level, cpu, instructions, cycles)


def costs(rows: Sequence[Row], regions: Mapping[Row, Sequence[Region]], partial: bool = False) -> list[Cost]:
    """One for each row and core, then attention as a whole for each cache type and level; what that needs must all be
    there unless the list is `partial`."""
    unlabelled = [row.function for row in rows if row not in regions]
    if unlabelled:
        raise CostError("no hot loop is labelled (cost.h) in: " + ", ".join(unlabelled))
    found = [row_cost(row, regions[row], cpu) for row in rows for cpu in CORES[row.level]]
    for cache_type in sorted({row.type for row in rows if row.operation == "scores"}):
        for level in ("neon", "dotprod"):
            try:
                found.append(attention_cost(cache_type, level, rows, regions))
            except CostError:
                if not partial:
                    raise
    return found


def attention_cost(cache_type: str, level: str, rows: Sequence[Row], regions: Mapping[Row, Sequence[Region]]) -> Cost:
    """Scores, online softmax and values of one level's kernels, as dispatch.c picks them: a level without its own row
    takes neon's, unless that reads codes that it orders in another way."""
    cpu, parts = CORES[level][0], []
    for operation in ATTENTION:
        row = Row(operation, "f32" if operation == "online_softmax" else cache_type, level)
        as_packed = operation == "scores" and cache_type != "f16"
        found = [r for r in (row, replace(row, level="neon")) if r in rows and (r == row or not as_packed)]
        if not found:
            raise CostError(f"kernels.inc has no {row.function}, or one of a lower level that could stand in")
        parts.append(row_cost(found[0], regions[found[0]], cpu))
    sums = sum(cost.instructions for cost in parts), sum(cost.cycles for cost in parts)
    return Cost(f"ek_attention_{cache_type}_{level}", cache_type, "attention", level, cpu, *sums)


def goal(cost: Cost, among: Sequence[Cost]) -> tuple[float | None, float | None]:
    """Instructions and cycles that a kernel was to stay under, where something was said of it."""
    whole = cost.op != "attention" or cost.kernel.startswith("ek_attention")
    if whole and (cost.op, cost.type, cost.level) in TARGETS:
        return TARGETS[cost.op, cost.type, cost.level]
    if cost.op != "attention" and cost.type in RELATIVE:
        for other in among:
            if (other.op, other.type, other.level, other.cpu) == (cost.op, "q4_0", cost.level, cost.cpu):
                return None, RELATIVE[cost.type] * other.cycles
    return None, None


def misses(among: Sequence[Cost]) -> list[str]:
    """A sentence for each goal that is not met."""
    said = []
    for cost in among:
        for unit, value, limit in zip(
            ("instructions", "cycles"), (cost.instructions, cost.cycles), goal(cost, among), strict=True
        ):
            if limit is not None and value > limit:
                said.append(f"{cost.kernel} on {cost.cpu}: {value:.2f} {unit} a block, the goal is {limit:.2f}")
    return said


def table(among: Sequence[Cost]) -> str:
    def pair(values: tuple[float | None, float | None]) -> str:
        return " / ".join("-" if v is None else f"{v:.2f}" for v in values) if any(values) else ""

    lines = [f"{'kernel':34} {'core':12} {'instructions / cycles':>21}  {'goal':>13}  {'llama.cpp':>14}"]
    for cost in among:
        whole = cost.op != "attention" or cost.kernel.startswith("ek_attention")
        theirs = LLAMA_CPP.get((cost.op, cost.type, cost.level), (None, None)) if whole else (None, None)
        ours = pair((cost.instructions, cost.cycles))
        lines.append(
            f"{cost.kernel:34} {cost.cpu:12} {ours:>21}  {pair(goal(cost, among)):>13}  {pair(theirs):>14}".rstrip()
        )
    lines.append(f"Per block, counted in {CLANG}'s code; cycles are those of {MCA}'s model of the core, not measured.")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions and modelled cycles per block of the ARM kernels.")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", default="", help="only files that have this in their path, such as neon/q4_0")
    parser.add_argument("--show", action="store_true", help="print the instructions of every region")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a goal is missed")
    given = parser.parse_args()
    try:
        rows = listed_rows((KERNELS / "kernels.inc").read_text())
        with tempfile.TemporaryDirectory() as build:
            regions = regions_by_row(Path(build), given.only)
        found = costs(list(regions), regions, partial=True) if given.only else costs(rows, regions)
    except (CostError, FileNotFoundError) as error:
        print(f"kernel_cost: {error}", file=sys.stderr)
        return 1
    for row in regions if given.show else ():
        for region in regions[row]:
            print(f"{row.function}, {region.mark.blocks} blocks:", *region.instructions, sep="\n    ")
    print(table(found))
    for said in misses(found):
        print(f"missed: {said}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps([entry(cost) for cost in found if cost.cpu in (CORES[cost.level][0],)], indent=1)
        )
    return 1 if given.check and misses(found) else 0


def entry(cost: Cost) -> dict[str, str | float]:
    return {
        "kernel": cost.kernel,
        "type": cost.type,
        "op": cost.op,
        "cpu": cost.cpu,
        "instructions_per_block": round(cost.instructions, 4),
        "cycles_per_block": round(cost.cycles, 4),
    }


if __name__ == "__main__":
    sys.exit(main())
