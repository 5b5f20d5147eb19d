"""Build the unchanged CUDA sources into a library of operators for CPU tensors.

    python -m tests.cuda_emulation.build [--sanitize] [-o PATH]

prints the library's path. With SEGKERNEL_LIBRARY=PATH segkernel loads it instead of its own. --sanitize adds
AddressSanitizer and UBSan.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TORCH = Path(torch.__file__).parent
COMPILER = shlex.split(os.environ.get("CXX", "g++"))
EMULATION = tuple(HERE / name for name in ("block.cpp", "fiber.cpp", "shared_memory.cpp", "stream.cpp"))
TORCH_CUDA = (HERE / "torch_cuda.cpp", HERE / "torch_graph.cpp")
OPERATORS = (*TORCH_CUDA, ROOT / "csrc/schemas.cpp", *sorted((ROOT / "csrc").glob("ops/*/*_cuda.cu")))
FLAGS = [
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-unknown-pragmas",
    "-fno-strict-aliasing",
    f"-I{HERE}",
    f"-I{ROOT / 'csrc'}",
    f"-isystem{TORCH / 'include'}",
    "-DSK_EMULATED_CUDA",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]
CHECKED = ["-O1", "-fsanitize=alignment,bounds,signed-integer-overflow", "-fno-sanitize-recover=all"]
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(
    sources: Iterable[Path] = OPERATORS,
    target: Path | None = None,
    *,
    name: str = "_cuda_emulated.so",
    sanitize: bool = False,
) -> Path:
    """Compile the sources that changed, link them with the emulation, and return `target`.

    The default target is `name` in a folder of build/ that also holds the object files.
    """
    folder = ROOT / "build" / ("cuda_emulation_sanitized" if sanitize else "cuda_emulation")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel tests build the same files
        return _build([*EMULATION, *sources], folder, target or folder / name, sanitize)


def _build(sources: Sequence[Path], folder: Path, target: Path, sanitize: bool) -> Path:
    if not sanitize:
        sources = [*sources, HERE / "undefined_behavior.cpp"]
    extra = SANITIZED if sanitize else CHECKED
    newest_header = max(path.stat().st_mtime for folder in (HERE, ROOT / "csrc") for path in folder.rglob("*.*h"))

    def compile_one(source: Path) -> Path:
        name = f"{source.stem}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}.o"
        compiled = folder / name
        if not compiled.exists() or compiled.stat().st_mtime < max(source.stat().st_mtime, newest_header):
            _run([*COMPILER, *FLAGS, *extra, "-x", "c++", "-c", str(source), "-o", str(compiled)])
        return compiled

    target.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # The largest first, so that no core waits for one that started last.
        objects = list(pool.map(compile_one, sorted(sources, key=lambda source: -source.stat().st_size)))
    if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime for path in objects):
        link = ["-shared", *(["-fsanitize=address,undefined"] if sanitize else []), "-Wl,-z,defs", "-Wl,-Bsymbolic"]
        runtime = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
        _run([*COMPILER, *link, *map(str, objects), *runtime, "-o", str(target)])
    return target


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr}")
    if done.stderr:
        print(done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("-o", dest="target", type=Path)
    options = parser.parse_args()
    print(build(target=options.target, sanitize=options.sanitize))


if __name__ == "__main__":
    main()
