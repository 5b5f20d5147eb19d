"""C++ test programs of tests/ops/cpp: compiled for one target, and run on this machine or under qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from segkernel._library import cpu_isa

ROOT = Path(__file__).parents[2]
PROGRAMS = "tests/ops/cpp"
# The flags of setup.py for each instruction set, in ascending order.
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
INSTRUCTION_SETS = {"baseline": [], "avx2": AVX2, "avx512": AVX512}
TARGETS = [*INSTRUCTION_SETS, "aarch64"]


def build_and_run(
    folder: Path, target: str, sources: list[str], *arguments: str, defines: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Compile `sources`, paths in the repository, into `folder` and run the program; skip where `target` cannot run."""
    command, prefix = _compiler_and_runner(target)
    program = str(folder / target)
    flags = ["-std=c++20", "-O3", "-fno-math-errno", "-Icsrc", *(f"-D{define}" for define in defines)]
    subprocess.run([*command, *flags, *sources, "-o", program], cwd=ROOT, check=True)
    return subprocess.run([*prefix, program, *arguments], capture_output=True, text=True, check=False)


def _compiler_and_runner(target: str) -> tuple[list[str], list[str]]:
    if target == "aarch64":
        compiler, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64"
        if shutil.which(compiler) is None or shutil.which(emulator) is None:
            pytest.skip("needs the Debian packages g++-aarch64-linux-gnu and qemu-user")
        return [compiler, "-static"], [emulator]
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler} not found")
    order = list(INSTRUCTION_SETS)
    if order.index(target) > order.index(cpu_isa()):
        pytest.skip(f"the instruction set in use is {cpu_isa()}")
    return [compiler, *INSTRUCTION_SETS[target]], []
