"""Builds `segkernel/_cuda.so` with plain nvcc. That needs neither a GPU nor a torch built with CUDA.

Switches: SEGKERNEL_CUDA=1 builds it or fails, 0 does not; by default it is built where torch has CUDA and there is an
nvcc of the same major version. CUDA_HOME names the toolkit. SEGKERNEL_CUDA_ARCHS="8.0 9.0" narrows the architectures.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "11.0", "12.0")
FLAGS = (
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",
    "-DUSE_CUDA",  # torch's headers declare their CUDA functions
    "-Xcompiler=-fPIC,-fvisibility=hidden",
)
# PyPI's toolkit, from CUDA 13 on. What its nvcc requires names no versions, and no two of these may differ in theirs.
PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-runtime", "nvidia-cuda-cccl")
DESCRIPTION = "_cuda.json"  # beside the library: tells what it was built for without loading it


@dataclass(frozen=True)
class Toolkit:
    nvcc: Path
    version: str  # "13.0"

    @property
    def major(self) -> str:
        return self.version.split(".")[0]

    @property
    def home(self) -> Path:
        return self.nvcc.parent.parent  # what CUDA_HOME would be

    def architectures(self) -> list[str]:
        """What SEGKERNEL_CUDA_ARCHS asks for, or those of ARCHITECTURES that this nvcc knows."""
        asked = os.environ.get("SEGKERNEL_CUDA_ARCHS", "").replace(",", " ").split()
        if wrong := [name for name in asked if re.fullmatch(r"\d+\.\d", name) is None]:
            sys.exit(f"segkernel: SEGKERNEL_CUDA_ARCHS: expected numbers such as `8.0 9.0`, got {wrong[0]!r}")
        known = output_of(self.nvcc, "--list-gpu-code").split()
        if unknown := [name for name in asked if sm(name) not in known]:
            sys.exit(f"segkernel: SEGKERNEL_CUDA_ARCHS: {unknown[0]} is unknown to {self.nvcc} ({', '.join(known)})")
        chosen = asked or [name for name in ARCHITECTURES if sm(name) in known]
        return sorted(set(chosen), key=float)


def sm(architecture: str) -> str:
    return "sm_" + architecture.replace(".", "")


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def candidates() -> Iterator[Path]:
    """Where an nvcc may be: CUDA_HOME alone where it is set, else the PATH, the usual place, PyPI's packages."""
    home = os.environ.get("CUDA_HOME")
    if home:
        yield Path(home) / "bin/nvcc"
        return
    on_path = shutil.which("nvcc")
    if on_path is not None:
        yield Path(on_path)
    yield Path("/usr/local/cuda/bin/nvcc")
    packages = importlib.util.find_spec("nvidia")  # where PACKAGES are, if they are
    for folder in (packages.submodule_search_locations or ()) if packages is not None else ():
        yield from sorted(Path(folder).glob("cu*/bin/nvcc"))


def toolkits() -> Iterator[Toolkit]:
    for nvcc in candidates():
        if nvcc.is_file():
            release = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version"))
            if release is not None:
                yield Toolkit(nvcc, release[1])


def is_on_pypi(version: str) -> bool:
    return int(version.partition(".")[0]) >= 13


def packages_of(version: str) -> list[str]:
    return [f"{package}=={version}.*" for package in PACKAGES]


def how_to_have(version: str) -> str:
    """What puts a toolkit of this version where it is found."""
    if not is_on_pypi(version):
        return f"install the CUDA toolkit {version} and set CUDA_HOME to it"
    packages = " ".join(f"'{package}'" for package in packages_of(version))
    return f"install the CUDA toolkit {version} and set CUDA_HOME to it, or unset that and `pip install {packages}`"


def choose_toolkit(torch_cuda: str | None) -> Toolkit | None:
    """The toolkit to build with beside a torch built with CUDA `torch_cuda` (None: without), None for the CPU alone."""
    wanted = os.environ.get("SEGKERNEL_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        sys.exit(f"segkernel: SEGKERNEL_CUDA: expected 0, 1 or auto, got {wanted!r}")
    if wanted == "0" or (wanted == "auto" and torch_cuda is None):
        return None
    found = list(toolkits())
    if wanted == "1" and not found:
        home = os.environ.get("CUDA_HOME")
        where = f"in CUDA_HOME, {home}" if home else "on the PATH, in /usr/local/cuda or in this environment"
        sys.exit(f"segkernel: SEGKERNEL_CUDA=1, but there is no nvcc {where}: {how_to_have(torch_cuda or '13.0')}.")
    fitting = next((toolkit for toolkit in found if toolkit.major == str(torch_cuda).split(".")[0]), None)
    if wanted == "1":
        return fitting or found[0]
    if fitting is None:
        others = ", ".join(f"{toolkit.nvcc} is {toolkit.version}" for toolkit in found) or "none found"
        print(
            f"segkernel: building the CPU kernels only: this torch has CUDA {torch_cuda}, and the CUDA kernels "
            f"take an nvcc of the same major version ({others}): {how_to_have(str(torch_cuda))}.",
            file=sys.stderr,
        )
    return fitting


def build(
    toolkit: Toolkit, sources: Iterable[str], target: Path, temporary: Path, torch_root: Path, torch_target: str
) -> None:
    """Compiles the sources in parallel, links `target`, and writes its description beside it."""
    architectures = toolkit.architectures()
    newest = architectures[-1].replace(".", "")
    codes = [name.replace(".", "") for name in architectures]
    targets = [f"-gencode=arch=compute_{code},code=sm_{code}" for code in codes]
    targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")  # for GPUs to come
    defines = [f"-DTORCH_TARGET_VERSION={torch_target}", f"-I{torch_root / 'include'}"]
    temporary.mkdir(parents=True, exist_ok=True)

    def compile_one(source: str) -> str:
        compiled = temporary / source.replace("/", ".").replace(".cu", ".o")
        run(toolkit.nvcc, *FLAGS, *targets, *defines, "-c", source, "-o", compiled)
        return str(compiled)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    target.parent.mkdir(parents=True, exist_ok=True)
    make_stub_of_torch_cuda(temporary)
    run(
        toolkit.nvcc,
        "-shared",
        # torch hands over streams and memory, which belong to the driver, so its runtime need not be ours. With our own
        # inside, the library loads beside every minor version of torch's.
        "-cudart=static",
        f"-L{toolkit.home / 'lib'}",  # the nvcc 13.0 of PyPI looks for its own runtime in lib64, where it is not
        "--no-device-link",
        *(f"-L{folder}" for folder in (temporary, torch_root / "lib")),  # -Xlinker takes no path with a space
        "-Xlinker=--no-as-needed,-ltorch_cuda,-ltorch_cpu,--as-needed,--exclude-libs=ALL,-s",
        *objects,
        "-o",
        target,
    )
    description = {"toolkit": toolkit.version, "architectures": architectures, "ptx": architectures[-1]}
    (target.parent / DESCRIPTION).write_text(json.dumps(description) + "\n")


def make_stub_of_torch_cuda(folder: Path) -> None:
    """An empty libtorch_cuda.so, to be linked against for its name: a CPU build of torch has none."""
    stub = folder / "libtorch_cuda.so"
    compiler = os.environ.get("CC", "cc").split()
    run(*compiler, "-shared", "-xc", os.devnull, f"-Wl,-soname,{stub.name}", "-o", stub)


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.stdout:
        print(done.stdout, file=sys.stderr, end="")
    if done.returncode != 0:
        sys.exit(f"segkernel: failed: {' '.join(map(str, command))}")
