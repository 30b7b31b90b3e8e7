"""The counting of ARM kernels: its parser on assembly written by hand, and what the kernels were to cost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "native" / "tools"

COUNTED = """
	.type	ek_gemv_q4_0_neon,@function
ek_gemv_q4_0_neon:                      // @ek_gemv_q4_0_neon
	.cfi_startproc
// %bb.0:
	mov	x8, xzr
	cbz	x1, .LBB0_4
.LBB0_1:                                // =>This Loop Header: Depth=1
	movi	v0.2d, #0000000000000000
	//APP
	// LLVM-MCA-BEGIN gemv/4/64
	//NO_APP
	mov	x9, #8                          // =0x8
.LBB0_2:                                //   Parent Loop BB0_1 Depth=1
	ldr	q1, [x0], #16
	//APP
	# LLVM-MCA-BEGIN gemv/4/8
	//NO_APP
	smull	v2.8h, v1.8b, v3.8b
	subs	x9, x9, #1
	.loc	1 2 3
	b.ne	.LBB0_2
// %bb.3:
	//APP
	# LLVM-MCA-END gemv/4/8
	//NO_APP
	str	q0, [x4], #16
	cmp	x8, x1
	b.lo	.LBB0_1
.LBB0_4:
	//APP
	# LLVM-MCA-END gemv/4/64
	//NO_APP
	ret
.Lfunc_end0:
	.size	ek_gemv_q4_0_neon, .Lfunc_end0-ek_gemv_q4_0_neon
"""


@pytest.fixture(scope="module")
def assembly() -> ModuleType:
    return tool("assembly")


@pytest.fixture(scope="module")
def kernel_cost() -> ModuleType:
    return tool("kernel_cost")


def tool(name: str) -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(TOOLS))


def function(*lines: str) -> str:
    body = "\n".join(lines)
    return f"\t.type\tf,@function\nf:\n{body}\n\t.size\tf, .Lfunc_end0-f\n"


BEGIN, END = "// LLVM-MCA-BEGIN gemm/4/8", "// LLVM-MCA-END gemm/4/8"


def test_loop_is_counted_from_its_label_and_without_the_loop_inside(assembly: ModuleType) -> None:
    inner, outer = sorted(assembly.regions(COUNTED), key=lambda region: region.mark.blocks)
    assert (inner.mark.operation, inner.mark.type, inner.mark.blocks) == ("gemv", 4, 8)
    assert inner.instructions == (
        "ldr q1, [x0], #16", "smull v2.8h, v1.8b, v3.8b", "subs x9, x9, #1", "b.ne .LBB0_2",
    )  # fmt: skip
    assert outer.mark.blocks == 64
    assert [line.split()[0] for line in outer.instructions] == ["movi", "mov", "str", "cmp", "b.lo"]


def test_code_that_is_laid_out_behind_the_return_belongs_to_its_loop(assembly: ModuleType) -> None:
    text = function(".L1:", BEGIN, "ldr q0, [x0]", "cbz x1, .L3", ".L2:", "subs x2, x2, #1", "b.ne .L1", END, "ret",
                    ".L3:", "add x3, x3, #1", "b .L2")  # fmt: skip
    (region,) = assembly.regions(text)
    assert sorted(line.split()[0] for line in region.instructions) == ["add", "b", "b.ne", "cbz", "ldr", "subs"]


def test_a_call_in_a_rare_case_is_left_out(assembly: ModuleType) -> None:
    rare = ("mov x0, x8", "bl rare", "b .L1")
    text = function(".L1:", BEGIN, "ldr q0, [x0]", "cbz x1, .L2", *rare, ".L2:", "b.ne .L1", END, "ret")
    (region,) = assembly.regions(text)
    assert region.instructions == ("ldr q0, [x0]", "cbz x1, .L2", "b.ne .L1")


def test_straight_line(assembly: ModuleType) -> None:
    (region,) = assembly.regions(function("mov x0, x1", BEGIN, "add x0, x0, #1", "mul x0, x0, x0", END, "ret"))
    assert region.instructions == ("add x0, x0, #1", "mul x0, x0, x0")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ((BEGIN, "nop", ".L1:", BEGIN, "nop", "b.ne .L1", END, "ret"), "occurs 2 times"),
        ((".L1:", BEGIN, "nop", "b.eq .L1", "nop", "b.ne .L1", END, "ret"), "2 ways back"),
        ((".L1:", BEGIN, ".L2:", "nop", "b.eq .L2", "b.ne .L1", END, "ret"), "has no label"),
        ((".L1:", BEGIN, "bl memcpy", "b.ne .L1", END, "ret"), "calls a function"),
        ((".L1:", BEGIN, "nop", "b.ne .L1", "ret"), "has no end"),
        ((".L1:", BEGIN, "nop", END, "b.ne .L1", "b .L2", ".L2:", "br x8"), "computed jump"),
        ((BEGIN, "nop", "cbz x0, .L1", "nop", ".L1:", END, "ret"), "neither a loop nor a straight line"),
        (
            (".L1:", BEGIN, "// LLVM-MCA-BEGIN gemm/4/64", "nop", "b.ne .L1", END, "// LLVM-MCA-END gemm/4/64", "ret"),
            "same loop",
        ),
    ],
)
def test_labels_that_would_lie_are_refused(assembly: ModuleType, lines: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(assembly.CostError, match=complaint):
        assembly.regions(function(*lines))


def test_a_tail_is_left_out_of_the_loop_around_it(assembly: ModuleType) -> None:
    tail = [line.replace("/8", "/0") for line in (BEGIN, END)]
    found = assembly.regions(
        function(".L1:", BEGIN, "add x0, x0, #1", ".L2:", tail[0], "nop", "b.ne .L2", tail[1], "b.eq .L1", END, "ret")
    )
    assert [region.instructions for region in found if region.mark.blocks] == [("add x0, x0, #1", "b.eq .L1")]


def test_rows_and_sums(kernel_cost: ModuleType) -> None:
    inc = "#if 1\nEK_KERNEL(scores, q8_0, neon)\nEK_KERNEL(values, q8_0, neon)\nEK_KERNEL(gemv, q8_0, avx2)\n#endif\n"
    rows = kernel_cost.listed_rows(inc)
    assert [row.function for row in rows] == ["ek_scores_q8_0_neon", "ek_values_q8_0_neon"]
    with pytest.raises(
        kernel_cost.CostError, match=r"no hot loop is labelled.*ek_scores_q8_0_neon, ek_values_q8_0_neon"
    ):
        kernel_cost.costs(rows, {})


def test_a_missed_goal_is_said(kernel_cost: ModuleType) -> None:
    def gemv(kind: str, instructions: float, cycles: float) -> object:
        return kernel_cost.Cost(f"ek_gemv_{kind}_neon", kind, "gemv", "neon", "cortex-a72", instructions, cycles)

    assert kernel_cost.misses([gemv("q4_0", 10.0, 5.0), gemv("q8_0", 99.0, 6.25), gemv("q6_k", 99.0, 8.0)]) == []
    said = kernel_cost.misses([gemv("q4_0", 10.5, 4.0), gemv("q8_0", 1.0, 5.5), gemv("q5_k", 1.0, 6.5)])
    assert [line.split(":")[0].split()[0] for line in said] == [
        "ek_gemv_q4_0_neon",
        "ek_gemv_q8_0_neon",
        "ek_gemv_q5_k_neon",
    ]


needs_llvm = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("clang-19", "llvm-mca-19", "aarch64-linux-gnu-gcc")),
    reason="clang-19, llvm-19 or the AArch64 cross compiler's libraries are not installed (.ci/run installs them)",
)


@pytest.fixture(scope="module")
def figures(kernel_cost: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list:
    """What `make kernel-cost` prints."""
    rows = kernel_cost.listed_rows((kernel_cost.KERNELS / "kernels.inc").read_text())
    return kernel_cost.costs(rows, kernel_cost.regions_by_row(tmp_path_factory.mktemp("build")))


# Where a goal is missed, the instructions and cycles that hold instead. A gemv of IQ4_NL looks up each weight once: two
# lookups a block, which are 6 vector operations in the A72's model, 2 in the N1's, of two a cycle. In gemm the tokens
# share them. Attention over an f16 cache is ARMv8.0's at every level, in float32: the bits are to be the same.
INSTEAD = {
    "ek_gemv_iq4_nl_neon": (13.2, 8.6),
    "ek_gemv_iq4_nl_dotprod": (8.2, 3.7),
    "ek_attention_f16_dotprod": (24.0, 13.3),
}


@needs_llvm
def test_every_arm_kernel_has_its_figures(kernel_cost: ModuleType, figures: list) -> None:
    rows = kernel_cost.listed_rows((kernel_cost.KERNELS / "kernels.inc").read_text())
    assert {row.level for row in rows} == {"neon", "dotprod", "i8mm"}
    assert {row.function for row in rows} <= {cost.kernel for cost in figures}
    for cost in figures:
        fastest = cost.instructions / {"cortex-a72": 3, "neoverse-n1": 8, "neoverse-n2": 10}[cost.cpu]
        assert fastest <= cost.cycles <= 4 * cost.instructions, cost


@needs_llvm
def test_kernels_cost_no_more_than_was_set(kernel_cost: ModuleType, figures: list) -> None:
    assert set(kernel_cost.TARGETS) <= {(cost.op, cost.type, cost.level) for cost in figures}
    missed = {line.split()[0] for line in kernel_cost.misses(figures)}
    assert missed == set(INSTEAD)
    for cost in figures:
        instructions, cycles = INSTEAD.get(cost.kernel, (cost.instructions, cost.cycles))
        assert cost.instructions <= instructions and cost.cycles <= cycles, cost


@needs_llvm
def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    made = tmp_path / "kernel-cost.json"
    command = [sys.executable, TOOLS / "kernel_cost.py", "--only", "/q4_0.c", "--json", made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entries = json.loads(made.read_text())
    assert {(entry["op"], entry["cpu"]) for entry in entries} >= {
        (op, cpu) for op in ("gemv", "gemm") for cpu in ("cortex-a72", "neoverse-n1")
    }
    for entry in entries:
        assert entry["kernel"].startswith(f"ek_{entry['op']}_{entry['type']}_")
        assert f"{entry['instructions_per_block']:.2f} / {entry['cycles_per_block']:.2f}" in done.stdout
