"""Control flow of machine code (SASS): the loop that reads a kernel's input, and its shortest iteration."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

WARP = 32
BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
ENDS = ("EXIT", "RET", "BRX", "JMX", "KILL")


@dataclass(frozen=True)
class Instruction:
    """One instruction, as nvdisasm prints it: `@P0 LDG.E.128 R4,desc[UR6][R2.64]`."""

    opcode: str
    operands: str = ""
    predicate: str = ""

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def is_local(self) -> bool:
        """Whether it reads or writes local memory: a spilled register, or an array with a dynamic index."""
        return self.name in ("LDL", "STL")

    @property
    def is_streaming(self) -> bool:
        """Whether it is a global load that marks its cache line to be evicted first (`__ldcs`)."""
        return self.loaded_bytes > 0 and "EF" in self.opcode.split(".")

    @property
    def loaded_bytes(self) -> int:
        """Bytes that a thread loads from global memory.

        Example:
            >>> Instruction("LDG.E.128").loaded_bytes, Instruction("LDG.E.U16").loaded_bytes
            (16, 2)
            >>> Instruction("LDG.E").loaded_bytes, Instruction("LDS.128").loaded_bytes
            (4, 0)
        """
        if self.name not in ("LDG", "LD"):
            return 0
        return next((BYTES[part] for part in self.opcode.split(".") if part in BYTES), 4)

    @property
    def target(self) -> int | None:
        """Index of the instruction that a branch jumps to."""
        found = re.search(r"0x([0-9a-f]+)$", self.operands) if self.name == "BRA" else None
        return None if found is None else int(found[1], 16) // 16

    @property
    def is_conditional(self) -> bool:
        return self.predicate not in ("", "@PT") or "," in self.operands


@dataclass(frozen=True)
class Iteration:
    """Shortest path through a loop that contains its widest group of loads; without a loop, through the kernel."""

    instructions: tuple[Instruction, ...]
    is_loop: bool

    @property
    def loaded_bytes(self) -> int:
        """Bytes that one thread loads."""
        return sum(one.loaded_bytes for one in self.instructions)

    @property
    def local_accesses(self) -> int:
        """Accesses to local memory: spilled registers."""
        return sum(one.is_local for one in self.instructions)

    @property
    def wide_loads(self) -> int:
        """Loads of 128 bits."""
        return sum(one.loaded_bytes == 16 for one in self.instructions)

    @property
    def per_512_bytes(self) -> float:
        """Instructions of a warp per 512 bytes that it loads: a warp's load of 128 bits per thread has 512."""
        return self._per_512_bytes(len(self.instructions))

    @property
    def special_per_512_bytes(self) -> float:
        """Those of them that the special-function units execute: exponentials, logarithms and reciprocals."""
        return self._per_512_bytes(sum(one.name == "MUFU" for one in self.instructions))

    def _per_512_bytes(self, count: int) -> float:
        return count * 512 / (WARP * self.loaded_bytes)


class Function:
    """Instructions of a kernel with their control flow."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self.instructions = instructions

    @classmethod
    def from_json(cls, rows: Sequence[dict[str, Any]]) -> Function:
        """Read nvdisasm's JSON."""
        return cls([Instruction(row["opcode"], row.get("operands", ""), row.get("predicate", "")) for row in rows])

    def successors(self, index: int) -> Iterator[int]:
        """Instructions that may be executed next. A call returns to the one after it."""
        one = self.instructions[index]
        if one.target is not None:
            yield one.target
        always_leaves = one.target is not None or one.name in ENDS
        if (not always_leaves or one.is_conditional) and index + 1 < len(self.instructions):
            yield index + 1

    @cached_property
    def loops(self) -> list[range]:
        """Instructions from the target of a backward branch to that branch, the shortest loop first."""
        found = {
            range(one.target, index + 1)
            for index, one in enumerate(self.instructions)
            if one.target is not None and one.target < index
        }
        return sorted(found, key=len)

    @cached_property
    def blocks(self) -> list[range]:
        """Basic blocks: instructions that are executed together."""
        count = len(self.instructions)
        targets = {one.target for one in self.instructions if one.target is not None}
        after = {index + 1 for index, one in enumerate(self.instructions) if one.name in ("BRA", *ENDS)}
        starts = sorted(({0} | targets | after) & set(range(count)))
        return [range(first, end) for first, end in zip(starts, [*starts[1:], count], strict=True)]

    def widest_loads(self) -> range | None:
        """The basic block that loads the most bytes, in a loop if there is one; streaming loads count first."""

        def loaded(block: range) -> tuple[bool, int, int]:
            found = [self.instructions[index] for index in block]
            in_loop = any(block[0] in loop for loop in self.loops)
            streamed = sum(one.loaded_bytes for one in found if one.is_streaming)
            return in_loop, streamed, sum(one.loaded_bytes for one in found)

        loading = [block for block in self.blocks if any(self.instructions[index].loaded_bytes for index in block)]
        return max(loading, key=loaded, default=None)

    def iteration(self) -> Iteration | None:
        """The shortest iteration that reads the kernel's input; `None` if the kernel reads nothing."""
        block = self.widest_loads()
        if block is None:
            return None
        everything = range(len(self.instructions))
        loop = next((loop for loop in self.loops if block[0] in loop and block[-1] in loop), None)
        inside = everything if loop is None else loop
        ends = (
            {index for index in everything if self.instructions[index].name == "EXIT"} if loop is None else {loop[-1]}
        )
        before = self.shortest_path(inside[0], {block[0]}, inside)
        after = self.shortest_path(block[-1], ends, inside)
        path = [*before[:-1], *block, *after[1:]]
        return Iteration(tuple(self.instructions[index] for index in path), loop is not None)

    def shortest_path(self, first: int, ends: set[int], inside: range) -> list[int]:
        """Fewest instructions from `first` to one of `ends`, both included.

        Raises:
            ValueError: there is no path.
        """
        previous: dict[int, int | None] = {first: None}
        waiting = deque([first])
        while waiting:
            index = waiting.popleft()
            if index in ends:
                path: list[int] = []
                at: int | None = index
                while at is not None:
                    path.append(at)
                    at = previous[at]
                return path[::-1]
            for successor in self.successors(index):
                if successor in inside and successor not in previous:
                    previous[successor] = index
                    waiting.append(successor)
        raise ValueError(f"no path from instruction {first} to {sorted(ends)}")
