"""Labelled loops in AArch64 assembly, as clang prints it.

A label says where a loop is; what the loop consists of is read from the control flow, so that instructions which the
compiler moved ahead of the label count and code that it moved out of the loop does not. Whatever would make a label
lie is a CostError: a loop unrolled, peeled or cloned, a second way back to its start, a loop inside without a label, a
call in every pass. Code under a condition counts in full, save what leads to a call: that is left out as a rare case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MARK = re.compile(r"(?:#|//)\s*LLVM-MCA-(BEGIN|END) (\w+)/(\d+)/(\d+)\s*$")
LABEL = re.compile(r"([\w.$]+):")
CONDITIONAL = re.compile(r"b\.\w+|bc\.\w+|cbn?z|tbn?z")


class CostError(Exception):
    """The assembly is not what its labels say."""


@dataclass(frozen=True)
class Mark:
    operation: str
    type: int  # of enum ek_type
    blocks: int  # of one pass; 0: not counted

    def __str__(self) -> str:
        return f"{self.operation}/{self.type}/{self.blocks}"


@dataclass(frozen=True)
class Region:
    """The instructions of one pass, without those of regions inside it."""

    function: str
    mark: Mark
    instructions: tuple[str, ...]


@dataclass
class Block:
    """A basic block: code that is entered at its start and left at its end."""

    labels: list[str] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    # (how many instructions come before it, BEGIN or END, the mark)
    marks: list[tuple[int, str, Mark]] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    header: int
    body: frozenset[int]
    tails: frozenset[int]  # the blocks that lead back to the header


def regions(text: str) -> list[Region]:
    """All labelled regions of a compiled file."""
    return [region for name, lines in functions(text) for region in function_regions(name, lines)]


def functions(text: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of each function between its label and its `.size`."""
    name, lines = "", []
    names = set(re.findall(r"^\s*\.type\s+([\w.$]+),\s*@function", text, re.MULTILINE))
    for line in text.splitlines():
        label = LABEL.match(line)
        if label and label[1] in names:
            name, lines = label[1], []
        elif name and re.match(r"\s*\.size\s", line):
            yield name, lines
            name = ""
        elif name:
            lines.append(line)


def function_regions(name: str, lines: Iterable[str]) -> list[Region]:
    blocks = basic_blocks(lines)
    begins = [(b, at, mark) for b, block in enumerate(blocks) for at, edge, mark in block.marks if edge == "BEGIN"]
    if not begins:
        return []
    connect(name, blocks)
    for mark, times in Counter(mark for _, _, mark in begins).items():
        if times > 1 and mark.blocks:
            raise CostError(
                f"{name}: the region {mark} occurs {times} times: unrolled, peeled or cloned (#pragma GCC unroll 1?)"
            )
    found = [(mark, *extent(name, blocks, loops(blocks), b, at, mark)) for b, at, mark in begins]
    return [finish(name, blocks, found, i) for i in range(len(found))]


def basic_blocks(lines: Iterable[str]) -> list[Block]:
    blocks = [Block()]
    for line in lines:
        mark, label = MARK.search(line), LABEL.match(line)
        code = re.sub(r"//.*", "", line).strip()
        if mark:
            edge, operation, kind, count = mark.groups()
            blocks[-1].marks.append((len(blocks[-1].instructions), edge, Mark(operation, int(kind), int(count))))
        elif label:
            if blocks[-1].instructions or blocks[-1].marks:
                blocks.append(Block())
            blocks[-1].labels.append(label[1])
        elif code and not code.startswith((".", "#")):
            blocks[-1].instructions.append(" ".join(code.split()))
            if is_branch(code):
                blocks.append(Block())
    return blocks


def is_branch(code: str) -> bool:
    word = code.split()[0]
    return word in ("b", "br", "ret") or CONDITIONAL.fullmatch(word) is not None


def connect(name: str, blocks: list[Block]) -> None:
    """Fills in where each block leads."""
    at = {label: b for b, block in enumerate(blocks) for label in block.labels}
    for b, block in enumerate(blocks):
        last = block.instructions[-1].split() if block.instructions else [""]
        if last[0] == "br":
            raise CostError(f"{name}: a computed jump hides where the code leads")
        if last[0] not in ("b", "ret") and b + 1 < len(blocks):
            block.successors.append(b + 1)
        if is_branch(" ".join(last) or "nop") and last[0] != "ret" and last[-1] in at:  # else a tail call
            block.successors.append(at[last[-1]])


def loops(blocks: Sequence[Block]) -> list[Loop]:
    """The natural loops: blocks from which a header that dominates them is reached without leaving it."""
    everything = frozenset(range(len(blocks)))
    predecessors = [[p for p in everything if b in blocks[p].successors] for b in range(len(blocks))]
    dominators = [frozenset({0}), *(everything for _ in blocks[1:])]
    changed = True
    while changed:
        changed = False
        for b in range(1, len(blocks)):
            new = frozenset.intersection(everything, *(dominators[p] for p in predecessors[b])) | {b}
            changed, dominators[b] = changed or new != dominators[b], new
    found = []
    for header in range(len(blocks)):
        tails = [p for p in predecessors[header] if header in dominators[p]]
        if tails:
            body, todo = {header}, list(tails)
            while todo:
                b = todo.pop()
                if b not in body:
                    body.add(b)
                    todo += predecessors[b]
            found.append(Loop(header, frozenset(body), frozenset(tails)))
    return found


def usual(loop: Loop, blocks: Sequence[Block]) -> Loop | None:
    """The loop without what only a pass that calls a function comes by: the rare case, such as an overflow. None where
    every pass calls one."""
    calling = {b for b in loop.body if any(line.split()[0] in ("bl", "blr") for line in blocks[b].instructions)}
    onwards: dict[int, set[int]] = {
        b: set(blocks[b].successors) & loop.body - {loop.header} for b in loop.body - calling
    }
    backwards = {b: {p for p in onwards if b in onwards[p]} for b in onwards}
    hot = reached({loop.header}, onwards) & reached(loop.tails, backwards)
    return Loop(loop.header, hot, loop.tails & hot) if loop.header in hot else None


def reached(start: Iterable[int], edges: Mapping[int, Iterable[int]]) -> frozenset[int]:
    seen: set[int] = set()
    todo = [b for b in start if b in edges]
    while todo:
        b = todo.pop()
        if b not in seen:
            seen.add(b)
            todo += (other for other in edges[b] if other in edges)
    return frozenset(seen)


Instructions = frozenset[tuple[int, int]]  # (block, index in it)


def extent(
    name: str, blocks: Sequence[Block], all_loops: Sequence[Loop], b: int, at: int, mark: Mark
) -> tuple[Instructions, Loop | None]:
    """What the region that begins in block b before instruction `at` consists of: a loop, or a straight line."""
    try:
        return strict_extent(name, blocks, all_loops, b, at, mark)
    except CostError:
        if mark.blocks:
            raise
        return frozenset(), None  # what is not counted may be taken apart


def strict_extent(
    name: str, blocks: Sequence[Block], all_loops: Sequence[Loop], b: int, at: int, mark: Mark
) -> tuple[Instructions, Loop | None]:
    ends = [e for e, block in enumerate(blocks) for _, edge, other in block.marks if edge == "END" and other == mark]
    if not ends:
        raise CostError(f"{name}: the region {mark} has no end")
    around = [loop for loop in all_loops if b in loop.body and not any(e in loop.body for e in ends)]
    if around:
        loop = usual(min(around, key=lambda loop: len(loop.body)), blocks)
        if loop is None:
            raise CostError(f"{name}: the region {mark} calls a function in every pass")
        if len(loop.tails) > 1:
            raise CostError(f"{name}: the loop {mark} has {len(loop.tails)} ways back to its start")
        return frozenset((x, i) for x in loop.body for i in range(len(blocks[x].instructions))), loop
    stops = [i for i, edge, other in blocks[b].marks if edge == "END" and other == mark and i >= at]
    if not stops:
        raise CostError(f"{name}: the region {mark} is neither a loop nor a straight line")
    return frozenset((b, i) for i in range(at, stops[0])), None


def finish(
    name: str, blocks: Sequence[Block], found: Sequence[tuple[Mark, Instructions, Loop | None]], index: int
) -> Region:
    """A region's text: its instructions without those of the regions inside it."""
    mark, body, loop = found[index]
    inner = [other for i, (_, other, _) in enumerate(found) if i != index and other < body]
    if mark.blocks and any(other == body for i, (_, other, _) in enumerate(found) if i != index):
        raise CostError(f"{name}: {mark} and another label are on the same loop: the compiler merged or removed one")
    if loop and mark.blocks:
        labelled = [other for _, _, other in found if other]
        for nested in loops(blocks):
            if nested.body < loop.body and not any(
                nested.body <= other.body for other in labelled if other != loop and other.body < loop.body
            ):
                at = blocks[nested.header].labels or ["?"]
                raise CostError(f"{name}: the loop at {at[0]} inside {mark} has no label")
    own = sorted(body.difference(*inner))
    text = tuple(blocks[b].instructions[i] for b, i in own)
    if mark.blocks and any(line.split()[0] in ("bl", "blr") for line in text):
        raise CostError(f"{name}: the region {mark} calls a function")
    return Region(name, mark, text)
