"""Loading of the compiled operators: which CUDA kernels match torch, and the errors and warnings otherwise. No GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import segkernel
from segkernel._library import CudaKernels, Operator, Operators, _machine_has_gpu, find_cuda_kernels

PACKAGE = Path(segkernel.__file__).parent
DESCRIPTION = {"toolkit": "13.0", "architectures": ["8.0", "8.6", "9.0"], "ptx": "9.0"}


@pytest.fixture
def cuda_folder(tmp_path: Path) -> Path:
    """Folder with the files of CUDA kernels, which are not loadable."""
    (tmp_path / "_cuda.so").write_bytes(b"")
    (tmp_path / "_cuda.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path


@pytest.mark.parametrize("torch_cuda", ["13.0", "13.2"])
def test_find_cuda_kernels_accepts_any_minor_version(cuda_folder: Path, torch_cuda: str) -> None:
    kernels = find_cuda_kernels(cuda_folder, torch_cuda, has_gpu=True)
    assert kernels == CudaKernels("13.0", ("8.0", "8.6", "9.0"), "9.0")


def test_find_cuda_kernels_rejects_another_major_version(cuda_folder: Path) -> None:
    kernels = find_cuda_kernels(cuda_folder, "12.8", has_gpu=False)
    assert kernels.problem == (
        "segkernel was built with CUDA 13.0, this torch was built with CUDA 12.8. Install a torch for CUDA 13, or "
        "segkernel's wheel for CUDA 12"
    )
    assert kernels.worth_a_warning
    assert kernels.architectures == ("8.0", "8.6", "9.0")
    # "1" is not the major version of "13".
    assert find_cuda_kernels(cuda_folder, "1.3", has_gpu=True).problem is not None


def test_find_cuda_kernels_rejects_torch_without_cuda(cuda_folder: Path) -> None:
    kernels = find_cuda_kernels(cuda_folder, None, has_gpu=False)
    assert kernels.problem is not None
    assert "this torch was built without CUDA. Install a torch for CUDA 13, or" in kernels.problem
    assert kernels.worth_a_warning


def test_find_cuda_kernels_of_a_cpu_build_warns_only_with_gpu_and_cuda_torch(tmp_path: Path) -> None:
    kernels = find_cuda_kernels(tmp_path, "13.0", has_gpu=True)
    assert kernels.problem is not None
    assert (
        "built without CUDA; this torch was built with CUDA 13.0. Install segkernel's wheel for CUDA 13"
        in kernels.problem
    )
    assert kernels.worth_a_warning
    assert not find_cuda_kernels(tmp_path, "13.0", has_gpu=False).worth_a_warning
    assert not find_cuda_kernels(tmp_path, None, has_gpu=True).worth_a_warning


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"toolkit": "13.0"}', '{"toolkit": 1, "architectures": 2, "ptx": 3}']
)
def test_find_cuda_kernels_with_damaged_description_reports_it(cuda_folder: Path, damage: str) -> None:
    (cuda_folder / "_cuda.json").write_text(damage)
    kernels = find_cuda_kernels(cuda_folder, "13.0", has_gpu=False)
    assert kernels.problem is not None
    assert "_cuda.json" in kernels.problem
    assert "Reinstall" in kernels.problem
    assert kernels.worth_a_warning


def test_run_on_follows_minor_versions_and_ptx() -> None:
    kernels = CudaKernels("13.0", ("8.6", "9.0"), "9.0")
    capabilities = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 1)]
    assert [kernels.run_on(capability) for capability in capabilities] == [False, False, True, True, True, True, True]
    assert not CudaKernels().run_on((9, 0))


def test_operator_reraises_validation_errors_as_value_error() -> None:
    def overload(message: str) -> str:
        if message:
            raise RuntimeError(message)
        return "returned"

    operator = Operator(SimpleNamespace(default=overload))
    assert operator.default("") == "returned"
    with pytest.raises(ValueError, match=r"^low: expected low <= high, got 1$"):
        operator.default("low: expected low <= high, got 1")
    with pytest.raises(RuntimeError, match="segment: CUDA launch failed"):
        operator.default("segment: CUDA launch failed: expected success")
    rewards = torch.tensor([[0.0, 2.0]])
    through_it = Operators().hysteresis.default(rewards, None, 0.0, None, 1.0, None, 0, None, True, None)
    assert through_it.tolist() == [[0, 1]]


PROGRAM = """
import sys, warnings
import torch
torch.version.cuda = {torch_cuda!r}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import segkernel, segkernel.ops, segkernel._info
ours = [str(warning.message) for warning in caught if "segkernel" in str(warning.message)]
print(len(ours), *ours)
rewards = torch.tensor([[0.25, 2.0, -1.0]])
print(segkernel.hysteresis(rewards, low=0.0, high=1.0).tolist())
try:  # the kernel of a call on a CUDA tensor
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    operator = torch.ops.segkernel.hysteresis.default
    operator.redispatch(key, rewards, None, 0.0, None, 1.0, None, 0, None, True, None)
except NotImplementedError as error:
    print(error)
print(segkernel._info.info())
"""


def run_with_copy(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the copied package on its path."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    environment.pop("SEGKERNEL_LIBRARY", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=package.parent, capture_output=True, text=True, check=False)


def imported_with(package: Path, torch_cuda: str | None) -> list[str]:
    """Imports the copied package with `torch.version.cuda` set to `torch_cuda`; returns the printed lines."""
    done = run_with_copy(package, "-c", PROGRAM.format(torch_cuda=torch_cuda))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def copy_of_the_package(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "_cuda*")
    return Path(shutil.copytree(PACKAGE, tmp_path / "copy" / "segkernel", ignore=ignored))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torch_cuda", "warned"),
    [
        ("13.0", "_cuda.so: file too short. Reinstall segkernel"),  # the dynamic linker's message
        ("12.8", "segkernel's wheel for CUDA 12"),
        (None, "Install a torch for CUDA 13"),
    ],
)
def test_import_succeeds_with_unusable_cuda_kernels(
    copy_of_the_package: Path, torch_cuda: str | None, warned: str
) -> None:
    (copy_of_the_package / "_cuda.so").write_bytes(b"no library")
    (copy_of_the_package / "_cuda.json").write_text(json.dumps(DESCRIPTION))
    warning, result, refusal, *info = imported_with(copy_of_the_package, torch_cuda)
    assert warning.startswith("1 segkernel runs on the CPU only: ")
    assert warned in warning
    assert result == "[[0, 1, -1]]"
    assert refusal.startswith("segkernel.hysteresis: got a CUDA tensor, but segkernel")
    assert warned in refusal
    lines = dict(line.split(maxsplit=1) for line in info)
    assert lines["cuda"].startswith("not loaded: ")
    assert warned in lines["cuda"]
    assert lines["toolkit"] == "CUDA 13.0: sm_80, sm_86, sm_90, PTX 9.0 for newer GPUs"


TWO_THREADS = """
import sys, threading, time
from importlib.machinery import PathFinder
import segkernel

def waits(thread):
    frame = sys._current_frames()[thread.ident]
    return frame.f_code.co_name == "acquire" and frame.f_locals["self"].name == "segkernel.ops"

def create_once_the_other_waits(spec):
    if not other.ident:
        other.start()
        while not waits(other):
            time.sleep(0.01)

class Between(PathFinder):
    @staticmethod
    def find_spec(name, path, target=None):
        if name != "segkernel.ops":
            return None
        spec = PathFinder.find_spec(name, path)
        spec.loader.create_module = create_once_the_other_waits
        return spec

found = []
other = threading.Thread(target=lambda: found.append(segkernel.gae.__name__))
sys.meta_path.insert(0, Between)
found.append(segkernel.segment.__name__)
other.join()
print(*sorted(found))
"""


@pytest.mark.slow
def test_first_use_from_two_threads_does_not_deadlock(copy_of_the_package: Path) -> None:
    done = run_with_copy(copy_of_the_package, "-c", TWO_THREADS)
    assert done.stderr == ""
    assert done.stdout == "gae segment\n"


@pytest.mark.slow
def test_library_for_another_torch_raises_import_error(copy_of_the_package: Path) -> None:
    library = copy_of_the_package / "_cpu.so"
    symbol = b"aoti_torch_empty_strided"
    library.write_bytes(library.read_bytes().replace(symbol, symbol[::-1]))
    done = run_with_copy(copy_of_the_package, "-m", "segkernel", "info")
    assert done.returncode == 2
    assert f"segkernel: error: segkernel's operators cannot be loaded with torch {torch.__version__}: " in done.stderr
    assert "undefined symbol" in done.stderr
    assert "They need torch >= 2.10" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(_machine_has_gpu(), reason="a machine with a GPU gets a warning")
@pytest.mark.parametrize("torch_cuda", [None, "13.0"])
def test_cpu_build_without_gpu_does_not_warn(copy_of_the_package: Path, torch_cuda: str | None) -> None:
    warning, result, refusal, *info = imported_with(copy_of_the_package, torch_cuda)
    assert warning == "0"
    assert result == "[[0, 1, -1]]"
    assert "segkernel was built without CUDA" in refusal
    assert any(line.startswith("cuda       not loaded: segkernel was built without CUDA; this torch") for line in info)
