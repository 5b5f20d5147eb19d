"""Compiled kernels of a source: resources from cuobjdump, instructions from nvdisasm."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.cuda_audit.fingerprint import fingerprint
from benchmarks.cuda_audit.occupancy import ARCHITECTURES
from benchmarks.cuda_audit.sass import Function
from build_support.cuda import FLAGS, Toolkit, output_of, run, sm
from build_support.requirements import package_folder

ROOT = Path(__file__).parents[2]
OPTIONS = (*FLAGS, "-cubin", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DSK_NO_FLOAT64")
SPECIAL_CYCLES = 8  # 32 lanes, 4 results per cycle


@dataclass(frozen=True)
class Kernel:
    """A kernel compiled for one architecture.

    Args:
        registers: per thread.
        stack: bytes of a thread's stack frame.
        shared_memory: bytes per block.
        threads: of the largest block.
        instructions: of a warp per 512 bytes that it loads, in the shortest iteration of the loop that reads the input;
            0 for a kernel that reads nothing.
        local_accesses: instructions of that iteration that use local memory.
        wide_loads: loads of 128 bits in that iteration.
        is_loop: whether the input is read in a loop.
        special: those of the instructions per 512 bytes that the special-function units execute.
    """

    registers: int
    stack: int
    shared_memory: int
    threads: int
    local_accesses: int
    instructions: float
    wide_loads: int
    is_loop: bool
    special: float = 0.0

    @property
    def cycles(self) -> float:
        """Cycles of one of a multiprocessor's 4 schedulers for 512 bytes: it issues one instruction per cycle.

        Its special-function units take `SPECIAL_CYCLES` for the instruction of a warp, on all of `ARCHITECTURES`.
        """
        return max(self.instructions, SPECIAL_CYCLES * self.special)

    def occupancy(self, architecture: str) -> float:
        limits = ARCHITECTURES[architecture]
        return limits.occupancy(self.registers, self.shared_memory, self.threads)


def compiled(source: Path, architecture: str, toolkit: Toolkit, folder: Path) -> Path:
    """Machine code (a cubin) of a source, which is compiled unless the folder has that of the same code."""
    stem = f"{source.stem}.{sm(architecture)}"
    cubin = folder / f"{stem}.{fingerprint_of(source, toolkit)}.cubin"
    if not cubin.exists():
        folder.mkdir(parents=True, exist_ok=True)
        virtual = sm(architecture).replace("sm", "compute")
        include = package_folder("torch") / "include"
        partial = folder / f"{stem}.part"
        run(
            *(toolkit.nvcc, *OPTIONS, f"-gencode=arch={virtual},code={sm(architecture)}"),
            *(f"-I{include}", "-c", source, "-o", partial),
        )
        for outdated in folder.glob(f"{stem}.*cubin"):
            outdated.unlink()
        partial.rename(cubin)
    return cubin


def fingerprint_of(source: Path, toolkit: Toolkit) -> str:
    return fingerprint(source, (toolkit.version, *OPTIONS))


def kernels_of(cubin: Path) -> Iterator[tuple[str, Kernel]]:
    """Kernels of a cubin with their names."""
    resources = dict(_resources(output_of(_tool("cuobjdump"), "--dump-resource-usage", cubin)))
    threads = dict(_threads(output_of(_tool("cuobjdump"), "--dump-elf", cubin)))
    _, functions = json.loads(output_of(_tool("nvdisasm"), "-json", cubin))
    symbols = [function["function-name"] for function in functions]
    for symbol, name, function in zip(symbols, _names(symbols), functions, strict=True):
        code = Function.from_json(function["sass-instructions"])
        iteration = code.iteration()
        yield (
            name,
            Kernel(
                registers=resources[symbol]["REG"],
                stack=resources[symbol]["STACK"],
                shared_memory=resources[symbol]["SHARED"],
                threads=threads[symbol],
                local_accesses=0 if iteration is None else iteration.local_accesses,
                instructions=0.0 if iteration is None else round(iteration.per_512_bytes, 1),
                special=0.0 if iteration is None else round(iteration.special_per_512_bytes, 1),
                wide_loads=0 if iteration is None else iteration.wide_loads,
                is_loop=iteration is not None and iteration.is_loop,
            ),
        )


def _resources(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    for symbol, usage in re.findall(r"Function (\S+?):\n\s*(REG.*)", text):
        yield symbol, {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", usage)}


def _threads(text: str) -> Iterator[tuple[str, int]]:
    for section in re.split(r"^\.nv\.info\.", text, flags=re.MULTILINE)[1:]:
        found = re.search(r"EIATTR_MAX_THREADS\n.*\n\s*Value:\s*0x([0-9a-f]+) ", section)
        if found is not None:
            yield section.split()[0], int(found[1], 16)


def _names(symbols: list[str]) -> list[str]:
    filtered = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    return [short_name(name) for name in filtered.stdout.splitlines()]


def short_name(name: str) -> str:
    """Name and template arguments of a kernel, without namespaces and parameters, with the names of enumerators.

    Example:
        >>> short_name("void segkernel::(anonymous namespace)::gae_kernel<float>(float const*, int)")
        'gae_kernel<float>'
        >>> short_name("void segkernel::fold_kernel<(segkernel::Reduce)1>(int)")
        'fold_kernel<mean>'
    """
    bare = re.sub(r"segkernel::|\(anonymous namespace\)::", "", name.removeprefix("void "))
    bare = re.sub(r"\((\w+)\)(\d+)\b", lambda found: _enumerators()[found[1]][int(found[2])], bare)
    depth = 0
    for index, character in enumerate(bare):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return bare[:index]
    return bare


@cache
def _enumerators() -> dict[str, list[str]]:
    """Enumerators of the enumerations in csrc, in their order."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "csrc").rglob("*.h")))
    found = re.findall(r"enum class (\w+)[^{;]*\{([^}]*)\}", text)
    return {name: [one.strip() for one in members.split(",")] for name, members in found}


def _tool(name: str) -> Path:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).glob(f"cu*/bin/{name}")):
            return path
    raise SystemExit(f"{name}: not found. Run `pip install nvidia-cuda-{name}`")
