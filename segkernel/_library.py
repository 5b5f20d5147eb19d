"""Load the compiled operators.

The CPU library is required. The CUDA library is loaded only if it matches torch's CUDA major version; otherwise the
import succeeds and calls on CUDA tensors raise an error that gives the reason.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

_FOLDER = Path(__file__).parent
# SEGKERNEL_LIBRARY=/path/to/library.so replaces it; the tests load emulated CUDA kernels so.
_PATH = Path(os.environ.get("SEGKERNEL_LIBRARY") or _FOLDER / "_cpu.so")

if not _PATH.exists():
    raise ImportError(
        f"segkernel's compiled operators are missing ({_PATH.name}). In a source checkout build them with "
        "`pip install --no-build-isolation -e .`"
    )


def _load(library: Path) -> None:
    """Load operators; the OSError carries the dynamic linker's message."""
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise OSError(str(error.__cause__ or error)) from None  # torch wraps the linker's error in its own


try:
    _load(_PATH)
except OSError as error:
    raise ImportError(
        f"segkernel's operators cannot be loaded with torch {torch.__version__}: {error}. They need torch >= 2.10; "
        "with such a torch, reinstall segkernel"
    ) from None


class Operator:
    """Workaround for torch >= 2.15, which turns every C++ exception except IndexError into RuntimeError.

    Calls of an overload re-raise segkernel's validation errors as ValueError.
    """

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
                    raise ValueError(str(error)) from None
                raise

        setattr(self, name, call)
        return call


class Operators:
    """`torch.ops.segkernel` with every operator wrapped in `Operator`."""

    def __getattr__(self, name: str) -> Operator:
        operator = Operator(getattr(torch.ops.segkernel, name))
        setattr(self, name, operator)
        return operator


def _keeps_value_errors() -> bool:
    """Whether torch raises C++'s std::invalid_argument as ValueError."""
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


_IMPLEMENTATIONS = torch.library.Library("segkernel", "IMPL")


def no_gradient(*operators: str) -> None:
    """Mark operators as non-differentiable: an autograd fallthrough, so that outputs carry no grad_fn."""
    for name in operators:
        _IMPLEMENTATIONS.impl(name, torch.library.fallthrough_kernel, "Autograd")


def no_second_derivative(operator: str) -> None:
    """Register an error as the derivative of `{operator}_backward`."""

    def refuse(ctx: Any, *grads: torch.Tensor) -> None:
        raise RuntimeError(f"{operator}: second derivatives are not available; its gradient cannot be differentiated")

    torch.library.register_autograd(f"segkernel::{operator}_backward", refuse)


def register_fake(operator: str) -> Callable[[Function], Function]:
    """Decorator of an operator's fake kernel, which gives shapes and dtypes to `torch.compile`.

    Torch also calls it if only some tensors are on the meta device. That is an error: its outputs are uninitialized.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def on_one_device(*arguments: Any) -> Any:
            devices = {argument.device for argument in arguments if isinstance(argument, torch.Tensor)}
            if len(devices) > 1:
                names = " and ".join(sorted(map(str, devices)))
                raise ValueError(f"{operator}: expected all tensors on one device, got {names}")
            return function(*arguments)

        torch.library.register_fake(f"segkernel::{operator}")(on_one_device)
        return function

    return decorate


def cpu_isa() -> str:
    """Instruction set of the CPU kernels, for example "avx512" or "baseline".

    Chosen on first use: the best that the processor has, or a lower one that the environment variable
    `SEGKERNEL_ISA` names.
    """
    return str(ops.cpu_isa.default())


@dataclass(frozen=True)
class CudaKernels:
    """Build description of the CUDA kernels, empty if there are none, and the reason why they are not in use."""

    toolkit: str = ""  # "13.0"
    architectures: tuple[str, ...] = ()  # of the machine code: ("8.0", "9.0")
    ptx: str = ""  # virtual architecture that the driver compiles for newer GPUs: "9.0"
    problem: str | None = None  # None if loaded, or if they can be
    worth_a_warning: bool = False  # whether the user is likely to expect CUDA kernels

    def run_on(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of this compute capability has code: its own, that of a lower minor version, or PTX."""
        native = (tuple(map(int, name.split("."))) for name in self.architectures)
        if any(major == capability[0] and minor <= capability[1] for major, minor in native):
            return True
        return self.ptx != "" and tuple(map(int, self.ptx.split("."))) <= capability


def find_cuda_kernels(folder: Path, torch_cuda: str | None, *, has_gpu: bool) -> CudaKernels:
    """Describe the CUDA kernels in `folder`, without loading them, for a torch built with CUDA `torch_cuda`."""
    torch_build = (
        "this torch was built without CUDA" if torch_cuda is None else f"this torch was built with CUDA {torch_cuda}"
    )
    if not (folder / "_cuda.so").exists():
        if torch_cuda is None:
            return CudaKernels(problem=f"segkernel was built without CUDA; {torch_build}, too")
        major = torch_cuda.split(".")[0]
        problem = (
            f"segkernel was built without CUDA; {torch_build}. Install segkernel's wheel for CUDA {major}, or build it "
            f"with this torch and nvcc {major}.x: `pip install --no-build-isolation .`"
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
        f"segkernel was built with CUDA {kernels.toolkit}, {torch_build}. Install a torch for CUDA {major}, or "
        f"segkernel's wheel {wheel}"
    )
    return replace(kernels, problem=problem, worth_a_warning=True)


def load_cuda_kernels(folder: Path, torch_cuda: str | None, *, has_gpu: bool) -> CudaKernels:
    """Load the CUDA kernels if they match torch; otherwise warn if necessary and make calls on CUDA tensors raise."""
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


def refuse_cuda_tensors(problem: str) -> None:
    """Register CUDA kernels that raise NotImplementedError with the problem, in place of torch's list of backends."""

    def refusal(name: str) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(f"segkernel.{name}: got a CUDA tensor, but {problem}.")

        return refuse

    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, name = qualified.partition("::")
        if namespace == "segkernel":
            _IMPLEMENTATIONS.impl(name, refusal(name), "CUDA")


def _machine_has_gpu() -> bool:
    """Look for the driver's device files: initializing the driver would make CUDA unusable in forked processes."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg"))


cuda_kernels = load_cuda_kernels(_FOLDER, torch.version.cuda, has_gpu=_machine_has_gpu())
