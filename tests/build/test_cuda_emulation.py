"""The CUDA emulation runs correct kernels and reports undefined behavior. Needs a C++ compiler, no GPU."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.cuda_emulation.build import COMPILER, build

pytestmark = pytest.mark.slow

KERNELS = Path(__file__).parents[1] / "cuda_emulation" / "wrong_kernels.cu"
THREADS = 64
Run = Callable[..., str]


def load(library: Path) -> Run:
    kernels = ctypes.CDLL(str(library))

    def run(name: str, *arguments: Tensor | int | bool) -> str:
        function = getattr(kernels, f"run_{name}")
        function.restype = ctypes.c_char_p
        converted = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments]
        return function(*converted).decode()

    return run


@pytest.fixture(scope="module")
def run() -> Run:
    return load(build([KERNELS], name="wrong_kernels.so"))


def line_of(text: str) -> int:
    """The number of the first line of the kernels that contains `text`."""
    return next(number for number, line in enumerate(KERNELS.read_text().splitlines(), 1) if text in line)


def test_shared_memory_exchanges_values_between_threads(run: Run) -> None:
    values, out = torch.arange(64.0), torch.empty(3, 64)
    assert run("rotate", 3, THREADS, values, out, 1, True) == ""
    assert torch.equal(out, values.roll(-1).expand(3, 64))


@pytest.mark.parametrize("by", [1, 63])
def test_missing_barrier_gives_nan_for_either_neighbor(run: Run, by: int) -> None:
    values, out = torch.arange(64.0), torch.empty(2, 64)
    assert run("rotate", 2, THREADS, values, out, by, False) == ""
    assert out.isnan().any()


def test_missing_barrier_before_overwrite_changes_results(run: Run) -> None:
    out, expected = torch.empty(2, 64), torch.tensor([[0.0], [1.0]]).expand(2, 64)
    assert run("two_rounds", out, True) == ""
    assert torch.equal(out, expected)
    assert run("two_rounds", out, False) == ""
    assert not torch.equal(out, expected)


def test_shared_memory_starts_poisoned_in_every_block(run: Run) -> None:
    out = torch.empty(2, 64)
    assert run("unwritten", out) == ""
    assert (out[0] == 1).all()
    assert out[1].isnan().all()


def test_blocks_wait_for_earlier_blocks(run: Run) -> None:
    out, sums = torch.empty(8, 64, dtype=torch.int64), torch.arange(8).cumsum(0)[:, None].expand(8, 64)
    assert run("relay", 8, torch.zeros(16, dtype=torch.int64), out, -1, True) == ""
    assert torch.equal(out, sums)
    # Later blocks run ahead of earlier ones, so that a block that does not wait reads too early.
    assert run("relay", 8, torch.zeros(16, dtype=torch.int64), out, -1, False) == ""
    assert not torch.equal(out, sums)


def test_blocks_that_wait_for_later_blocks_deadlock(run: Run) -> None:
    """They would finish only if all blocks ran at the same time, which no kernel can rely on."""
    out = torch.empty(8, 64, dtype=torch.int64)
    expected = r"no block can finish: thread \(0, 0, 0\) waits at __nanosleep \(lookback.cuh:\d+\) of block \(0, "
    assert re.search(expected, run("relay", 8, torch.zeros(16, dtype=torch.int64), out, 1, True))


def test_thread_that_exits_before_a_barrier_is_reported(run: Run) -> None:
    assert re.search(
        r"thread \(40, 0, 0\) of block \(0, 0, 0\) exits while .* __syncthreads", run("leave_before_barrier")
    )


def test_threads_at_different_barriers_are_reported(run: Run) -> None:
    first = line_of("if (threadIdx.x < 40) {") + 1
    expected = (
        rf"thread \([456]\d, 0, 0\) .*is at __syncthreads \(wrong_kernels.cu:{first + 2}\), "
        rf"but thread \(0, 0, 0\) waits at __syncthreads \(wrong_kernels.cu:{first}\)"
    )
    assert re.search(expected, run("two_barriers"))


def test_lane_that_exits_before_a_shuffle_is_reported(run: Run) -> None:
    line = line_of("__shfl_xor_sync(kAllLanes, 1.0f, 1)")
    message = run("leave_before_shuffle", torch.empty(64))
    assert message.endswith(
        "no thread of block (0, 0, 0) can resume: thread (32, 0, 0) waits at __shfl_xor_sync "
        f"(wrong_kernels.cu:{line}), and thread (40, 0, 0) has exited"
    )


def test_lanes_that_skip_a_shuffle_are_reported(run: Run) -> None:
    message = run("shuffle_in_a_branch", torch.empty(64))
    assert re.search(
        r"can resume: thread \(0, 0, 0\) waits at __shfl_sync .*, and thread \(1, 0, 0\) waits at __sync", message
    )


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("read_from_outside", r"is at __shfl_sync .* and reads from lane 20, which is not in the mask"),
        ("call_from_outside", r"thread \(16, 0, 0\) .*is at __ballot_sync .* with a mask that leaves itself out"),
        ("two_masks", r"thread \(5, 0, 0\) .*is at __ballot_sync .*, but thread \(0, 0, 0\) waits at __ballot_sync"),
        ("half_a_warp", r"is at __ballot_sync .* with a mask that names lanes that do not exist"),
        ("overrun_shared", r"thread \(63, 0, 0\) .*indexes past the end of an array at wrong_kernels.cu:\d+"),
    ],
)
def test_undefined_behavior_is_reported(run: Run, kernel: str, expected: str) -> None:
    message = run(kernel, torch.empty(64))
    assert re.search(expected, message), message


@pytest.mark.parametrize("kernel", ["read_vector", "read_vector_once"])
def test_misaligned_vectors_are_reported(run: Run, kernel: str) -> None:
    values, out = torch.arange(40.0), torch.empty(8)
    assert run(kernel, values, out) == ""
    assert torch.equal(out, values[:32:4])
    expected = r"thread \(0, 0, 0\) of block \(0, 0, 0\) accesses a misaligned address at wrong_kernels.cu:\d+"
    assert re.search(expected, run(kernel, values[1:], out))


def test_offset_overflow_is_reported(run: Run) -> None:
    out = torch.zeros(1, dtype=torch.int64)
    assert run("narrow_offset", 1000, 151936, out) == ""
    assert out.item() == 151936000
    assert "overflows an integer at wrong_kernels.cu" in run("narrow_offset", 20000, 151936, out)


def test_invalid_launches_raise(run: Run) -> None:
    values, out = torch.zeros(64), torch.full((64,), 7.0)
    refused = "test: CUDA launch failed: invalid configuration argument"
    assert run("rotate", 1, 0, values, out, 0, True) == refused
    assert run("rotate", 1, 1025, values, out, 0, True) == refused
    assert run("rotate", 2**31, 64, values, out, 0, True) == "test: CUDA launch failed: 2147483648 blocks"
    assert run("rotate", 0, THREADS, values, out, 0, True) == ""  # nothing to launch
    assert (out == 7).all()


def test_launch_after_a_failed_one_works(run: Run) -> None:
    run("leave_before_barrier")
    run("shuffle_in_a_branch", torch.empty(64))
    test_shared_memory_exchanges_values_between_threads(run)


def test_block_scan_and_reduce_against_python_integers(run: Run) -> None:
    functions = torch.randint(0, 2**31, (128, 2), dtype=torch.int32)
    before, all_of_them = torch.empty_like(functions), torch.empty_like(functions)
    assert run("scan", functions, before, all_of_them) == ""
    a, b = 1, 0
    for function, found in zip(functions.tolist(), before.tolist(), strict=True):
        assert [a % 2**32, b % 2**32] == [found[0] % 2**32, found[1] % 2**32]
        a, b = a * function[0], b * function[0] + function[1]
    assert {tuple(number % 2**32 for number in row) for row in all_of_them.tolist()} == {(a % 2**32, b % 2**32)}

    numbers, total = torch.randint(-(2**40), 2**40, (128,)), torch.empty(128, dtype=torch.int64)
    assert run("sum", numbers, total) == ""
    assert (total == numbers.sum()).all()


def test_results_do_not_depend_on_the_seed() -> None:
    """In a random order of threads, correct kernels give the same results and a missing barrier is detected."""
    library = build([KERNELS], name="wrong_kernels.so")
    code = (
        f"import sys, torch; sys.path.insert(0, {str(KERNELS.parents[1])!r}); from pathlib import Path; "
        f"import tests.build.test_cuda_emulation as tests; run = tests.load(Path({str(library)!r})); "
        "tests.test_shared_memory_exchanges_values_between_threads(run); "
        "tests.test_block_scan_and_reduce_against_python_integers(run); "
        "tests.test_missing_barrier_gives_nan_for_either_neighbor(run, 1); "
        "tests.test_missing_barrier_before_overwrite_changes_results(run)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "SEGKERNEL_EMULATION_SEED": "3"})


def test_address_sanitizer_reports_a_read_past_the_end(tmp_path: Path) -> None:
    """AddressSanitizer follows the fibers and detects a kernel's read past the end of a tensor."""
    library = build([KERNELS], name="wrong_kernels.so", sanitize=True)
    code = (
        "import ctypes, sys; kernels = ctypes.CDLL(sys.argv[1]); libc = ctypes.CDLL(None); "
        "libc.malloc.restype = ctypes.c_void_p; a, b = (ctypes.c_void_p(libc.malloc(160)) for _ in range(2)); "
        "kernels.run_leave_before_barrier(); kernels.run_copy(a, b, int(sys.argv[2])); print('done')"
    )
    runtimes = [
        subprocess.run(
            [*COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    env = {**os.environ, "LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}

    def copy(n: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(library), str(n)]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    right, wrong = copy(40), copy(41)
    assert right.stdout == "done\n", right.stderr
    assert wrong.returncode != 0
    assert "heap-buffer-overflow" in wrong.stderr
    assert f"wrong_kernels.cu:{line_of('out[threadIdx.x] = in[threadIdx.x]')}" in wrong.stderr
