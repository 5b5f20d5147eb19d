"""Build `segkernel/_cuda.so` with plain nvcc. Neither a GPU nor a CUDA build of torch is needed.

Environment variables:
    SEGKERNEL_CUDA: 1 builds the library or fails, 0 skips it. By default it is built if torch has CUDA and an nvcc of
        the same major version is found.
    CUDA_HOME: the toolkit to use.
    SEGKERNEL_CUDA_ARCHS: compute capabilities to compile for, such as "8.0 9.0".
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
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
# The CUDA toolkit on PyPI (13.0 and later). nvcc's own requirements are unpinned, but all versions must match.
PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-runtime", "nvidia-cuda-cccl")
DESCRIPTION = "_cuda.json"  # toolkit and architectures of the library, readable without loading it


@dataclass(frozen=True)
class Toolkit:
    """An installed CUDA toolkit."""

    nvcc: Path
    version: str  # "13.0"

    @property
    def major(self) -> str:
        return self.version.split(".")[0]

    @property
    def home(self) -> Path:
        """The folder that CUDA_HOME would name."""
        return self.nvcc.parent.parent

    def architectures(self) -> list[str]:
        """The architectures in SEGKERNEL_CUDA_ARCHS, or all of ARCHITECTURES that this nvcc supports."""
        requested = os.environ.get("SEGKERNEL_CUDA_ARCHS", "").replace(",", " ").split()
        if wrong := [name for name in requested if re.fullmatch(r"\d+\.\d", name) is None]:
            sys.exit(f"segkernel: SEGKERNEL_CUDA_ARCHS: expected values such as `8.0 9.0`, got {wrong[0]!r}")
        known = output_of(self.nvcc, "--list-gpu-code").split()
        if unknown := [name for name in requested if sm(name) not in known]:
            sys.exit(
                f"segkernel: SEGKERNEL_CUDA_ARCHS: expected architectures that {self.nvcc} supports "
                f"({', '.join(known)}), got {unknown[0]}"
            )
        chosen = requested or [name for name in ARCHITECTURES if sm(name) in known]
        return sorted(set(chosen), key=float)


def sm(architecture: str) -> str:
    return "sm_" + architecture.replace(".", "")


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def candidates() -> Iterator[Path]:
    """Possible paths of nvcc: only CUDA_HOME if it is set, otherwise the PATH, /usr/local/cuda and PyPI packages."""
    home = os.environ.get("CUDA_HOME")
    if home:
        yield Path(home) / "bin/nvcc"
        return
    on_path = shutil.which("nvcc")
    if on_path is not None:
        yield Path(on_path)
    yield Path("/usr/local/cuda/bin/nvcc")
    packages = importlib.util.find_spec("nvidia")  # the namespace package that PACKAGES install into
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


def install_hint(version: str) -> str:
    """How to install a CUDA toolkit of this version."""
    if not is_on_pypi(version):
        return f"install the CUDA toolkit {version} and set CUDA_HOME to it"
    packages = " ".join(f"'{package}'" for package in packages_of(version))
    return f"install the CUDA toolkit {version} and set CUDA_HOME to it, or unset that and `pip install {packages}`"


def choose_toolkit(torch_cuda: str | None) -> Toolkit | None:
    """The toolkit to build with, or None for a CPU-only build.

    `torch_cuda` is the CUDA version that torch was built with, None for a CPU build of torch.
    """
    wanted = os.environ.get("SEGKERNEL_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        sys.exit(f"segkernel: SEGKERNEL_CUDA: expected 0, 1 or auto, got {wanted!r}")
    if wanted == "0" or (wanted == "auto" and torch_cuda is None):
        return None
    found = list(toolkits())
    if wanted == "1" and not found:
        home = os.environ.get("CUDA_HOME")
        where = f"in CUDA_HOME, {home}" if home else "on the PATH, in /usr/local/cuda or in this environment"
        sys.exit(f"segkernel: SEGKERNEL_CUDA=1, but there is no nvcc {where}: {install_hint(torch_cuda or '13.0')}.")
    fitting = next((toolkit for toolkit in found if toolkit.major == str(torch_cuda).split(".")[0]), None)
    if wanted == "1":
        return fitting or found[0]
    if fitting is None:
        others = ", ".join(f"{toolkit.nvcc} is {toolkit.version}" for toolkit in found) or "none found"
        print(
            f"segkernel: building the CPU kernels only: torch was built with CUDA {torch_cuda}, and the CUDA "
            f"kernels need an nvcc of the same major version ({others}): {install_hint(str(torch_cuda))}.",
            file=sys.stderr,
        )
    return fitting


def build(
    toolkit: Toolkit, sources: Iterable[str], target: Path, temporary: Path, torch_root: Path, torch_target: str
) -> None:
    """Compile the sources that changed, in parallel, link `target`, and write its description next to it."""
    architectures = toolkit.architectures()
    newest = architectures[-1].replace(".", "")
    codes = [name.replace(".", "") for name in architectures]
    targets = [f"-gencode=arch=compute_{code},code=sm_{code}" for code in codes]
    targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")  # PTX for future GPUs
    defines = [f"-DTORCH_TARGET_VERSION={torch_target}", f"-I{torch_root / 'include'}"]
    temporary.mkdir(parents=True, exist_ok=True)
    newest_header = max((path.stat().st_mtime for path in Path("csrc").rglob("*.*h")), default=0.0)

    def compile_one(source: str) -> str:
        command = [*map(str, (toolkit.nvcc, *FLAGS, *targets, *defines, "-c", source))]
        compiled = temporary / source.replace("/", ".").replace(".cu", ".o")
        recorded = compiled.with_suffix(".command")  # other flags or another toolkit: compile again
        up_to_date = (
            compiled.exists()
            and compiled.stat().st_mtime > max(newest_header, Path(source).stat().st_mtime)
            and recorded.exists()
            and recorded.read_text() == shlex.join(command)
        )
        if not up_to_date:
            run(*command, "-o", compiled)
            recorded.write_text(shlex.join(command))
        return str(compiled)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    target.parent.mkdir(parents=True, exist_ok=True)
    make_torch_cuda_stub(temporary)
    run(
        toolkit.nvcc,
        "-shared",
        # A static runtime lets the library load next to every minor version of torch's CUDA runtime: streams and
        # memory belong to the driver, so the two runtimes can share them.
        "-cudart=static",
        f"-L{toolkit.home / 'lib'}",  # nvcc 13.0 from PyPI searches lib64, but its runtime is in lib
        "--no-device-link",
        *(f"-L{folder}" for folder in (temporary, torch_root / "lib")),  # -Xlinker splits paths at spaces
        "-Xlinker=--no-as-needed,-ltorch_cuda,-ltorch_cpu,--as-needed,--exclude-libs=ALL,-s",
        *objects,
        "-o",
        target,
    )
    description = {"toolkit": toolkit.version, "architectures": architectures, "ptx": architectures[-1]}
    (target.parent / DESCRIPTION).write_text(json.dumps(description) + "\n")


def make_torch_cuda_stub(folder: Path) -> None:
    """Write an empty libtorch_cuda.so to link against: a CPU build of torch has none."""
    stub = folder / "libtorch_cuda.so"
    compiler = os.environ.get("CC", "cc").split()
    run(*compiler, "-shared", "-xc", os.devnull, f"-Wl,-soname,{stub.name}", "-o", stub)


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.stdout:
        print(done.stdout, file=sys.stderr, end="")
    if done.returncode != 0:
        sys.exit(f"segkernel: failed: {' '.join(map(str, command))}")
