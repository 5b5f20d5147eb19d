"""Loads the operators, so that `torch.ops.segkernel` is populated whoever imports first.

The CPU's must be there. CUDA's are loaded where they fit torch; where they don't, importing works all the same, and a
call on CUDA tensors says why it cannot.
"""

from __future__ import annotations

import json
import os
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent
# SEGKERNEL_LIBRARY=/path/to/library.so is loaded instead: the tests' CUDA kernels for CPU tensors.
_PATH = Path(os.environ.get("SEGKERNEL_LIBRARY") or _FOLDER / "_cpu.so")

if not _PATH.exists():
    raise ImportError(
        f"segkernel's compiled operators are missing ({_PATH.name}). In a source checkout build them with "
        "`pip install --no-build-isolation -e .`"
    )


def _load(library: Path) -> None:
    """Loads operators; an OSError says why it cannot."""
    if _is_cut_short(library):
        raise OSError(f"{library}: file too short")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise OSError(str(error.__cause__ or error)) from None  # torch keeps the dynamic linker's words from its own


def _is_cut_short(library: Path) -> bool:
    """Whether a file ends before its sections do: of that, the dynamic linker can die by SIGBUS."""
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF"):
        return False  # which it says by itself
    start, size, count = struct.unpack("=40xQ10xHH2x", header)
    return int(start + size * count) > library.stat().st_size


try:
    _load(_PATH)
except OSError as error:
    raise ImportError(
        f"segkernel's operators cannot be loaded beside torch {torch.__version__}: {error}. They need torch >= 2.10; "
        "where it is that, reinstall segkernel"
    ) from None


class Operator:
    """An operator under a torch (2.15 is one) that makes a RuntimeError of every error thrown in C++ but IndexError."""

    def __init__(self, overloads: Any) -> None:
        self.overloads = overloads

    def __getattr__(self, name: str) -> Callable[..., Any]:
        overload = getattr(self.overloads, name)

        def call(*arguments: Any) -> Any:
            if torch.compiler.is_compiling():
                return overload(*arguments)
            try:
                return overload(*arguments)
            except RuntimeError as error:
                if type(error) is RuntimeError and re.match(r"\w+: expected ", str(error)):
                    raise ValueError(str(error)) from None  # what it was before torch
                raise

        setattr(self, name, call)
        return call


class Operators:
    """`torch.ops.segkernel` with the errors that the operators document."""

    def __getattr__(self, name: str) -> Operator:
        operator = Operator(getattr(torch.ops.segkernel, name))
        setattr(self, name, operator)
        return operator


def _keeps_value_errors() -> bool:
    """Whether a ValueError of the operators arrives as one."""
    try:
        torch.ops.segkernel.hysteresis.default(
            torch.empty(1, 0, device="cpu"), None, 1.0, None, 0.0, None, 0, None, True, None
        )
    except ValueError:
        return True
    except RuntimeError:
        return False
    return True


ops: Any = torch.ops.segkernel if _keeps_value_errors() else Operators()


_WITHOUT_GRADIENT = torch.library.Library("segkernel", "IMPL")


def no_gradient(*operators: str) -> None:
    """Lets autograd pass these by. It would attach to their outputs what warns in a backward pass and gives nothing."""
    for name in operators:
        _WITHOUT_GRADIENT.impl(name, torch.library.fallthrough_kernel, "Autograd")


def cpu_isa() -> str:
    """The instruction set that the CPU kernels use: "avx512", "avx2" or "baseline".

    Chosen when first needed; the environment variable `SEGKERNEL_ISA` may name a lower one.
    """
    return str(ops.cpu_isa.default())


@dataclass(frozen=True)
class CudaKernels:
    """What the CUDA kernels were built with, empty where they were not built; and why they are not in use."""

    toolkit: str = ""  # "13.0"
    architectures: tuple[str, ...] = ()  # of the machine code: ("8.0", "9.0")
    ptx: str = ""  # of the code that the driver compiles for newer GPUs: "9.0"
    problem: str | None = None  # None: loaded, or fit to be
    worth_a_warning: bool = False  # whether the user will have expected something else

    def run_on(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of this compute capability has code: its own, that of a lower minor version, or PTX."""
        native = (tuple(map(int, name.split("."))) for name in self.architectures)
        if any(major == capability[0] and minor <= capability[1] for major, minor in native):
            return True
        return self.ptx != "" and tuple(map(int, self.ptx.split("."))) <= capability


def find_cuda_kernels(folder: Path, torch_cuda: str | None, *, has_gpu: bool) -> CudaKernels:
    """The CUDA kernels in `folder`, judged without loading them for a torch built with CUDA `torch_cuda`."""
    beside = (
        "this torch was built without CUDA" if torch_cuda is None else f"this torch was built with CUDA {torch_cuda}"
    )
    if not (folder / "_cuda.so").exists():
        if torch_cuda is None:
            return CudaKernels(problem=f"segkernel was built without CUDA; {beside}, too")
        major = torch_cuda.split(".")[0]
        problem = (
            f"segkernel was built without CUDA; {beside}. Install segkernel's wheel for CUDA {major}, or build it "
            f"beside this torch with nvcc {major}.x: `pip install --no-build-isolation .`"
        )
        return CudaKernels(problem=problem, worth_a_warning=has_gpu)
    try:
        built = json.loads((folder / "_cuda.json").read_text())
        kernels = CudaKernels(str(built["toolkit"]), tuple(built["architectures"]), str(built["ptx"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = (
            f"segkernel's _cuda.json, which describes its CUDA kernels, is missing or damaged ({error}). Reinstall it"
        )
        return CudaKernels(problem=problem, worth_a_warning=True)
    major = kernels.toolkit.split(".")[0]
    if torch_cuda is not None and torch_cuda.split(".")[0] == major:
        return kernels
    wheel = "without CUDA" if torch_cuda is None else f"for CUDA {torch_cuda.split('.')[0]}"
    problem = (
        f"segkernel was built with CUDA {kernels.toolkit}, {beside}. Install a torch for CUDA {major}, or segkernel's "
        f"wheel {wheel}"
    )
    return replace(kernels, problem=problem, worth_a_warning=True)


def load_cuda_kernels(folder: Path, torch_cuda: str | None, *, has_gpu: bool) -> CudaKernels:
    """Loads the CUDA kernels where they fit; else warns where that may surprise, and makes calls on CUDA tell why."""
    kernels = find_cuda_kernels(folder, torch_cuda, has_gpu=has_gpu)
    if kernels.problem is None:
        try:
            _load(folder / "_cuda.so")
            return kernels
        except OSError as error:
            problem = f"segkernel's CUDA kernels cannot be loaded: {error}. Reinstall segkernel, or torch"
            kernels = replace(kernels, problem=problem, worth_a_warning=True)
    if kernels.worth_a_warning:
        warnings.warn(f"segkernel runs on the CPU only: {kernels.problem}.", RuntimeWarning, stacklevel=2)
    refuse_cuda_tensors(str(kernels.problem))
    return kernels


_refusals = torch.library.Library("segkernel", "IMPL")


def refuse_cuda_tensors(problem: str) -> None:
    """Makes every operator raise on CUDA tensors, naming the problem, instead of torch's list of backends."""

    def refusal(name: str) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(f"segkernel.{name}: got a CUDA tensor, but {problem}.")

        return refuse

    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, name = qualified.partition("::")
        if namespace == "segkernel":
            _refusals.impl(name, refusal(name), "CUDA")


def _machine_has_gpu() -> bool:
    """Looks for the driver's device files: asking the driver itself would take CUDA away from forked processes."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg"))


cuda_kernels = load_cuda_kernels(_FOLDER, torch.version.cuda, has_gpu=_machine_has_gpu())
