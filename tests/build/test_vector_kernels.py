"""exp2, tanh, the row kernels of token_logprobs and select_tokens, tested in C++, for aarch64 under qemu."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.build.cpp_programs import PROGRAMS, TARGETS, build_and_run

TABLES = {"baseline": "Baseline", "avx2": "Avx2", "avx512": "Avx512"}
EXHAUSTIVE, UNDER_EMULATION = "1", "401"

pytestmark = [pytest.mark.compiles, pytest.mark.slow]


@pytest.mark.parametrize("target", TARGETS)
def test_exp2_error_in_ulp_over_all_floats(target: str, tmp_path: Path) -> None:
    stride = UNDER_EMULATION if target == "aarch64" else EXHAUSTIVE
    done = build_and_run(tmp_path, target, [f"{PROGRAMS}/exp2_test.cpp"], "vec", stride)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scalar_exp2_error_in_ulp(tmp_path: Path) -> None:
    done = build_and_run(tmp_path, "baseline", [f"{PROGRAMS}/exp2_test.cpp"], "scalar", "31")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_row_kernels_match_float64(target: str, tmp_path: Path) -> None:
    isa = "baseline" if target == "aarch64" else target
    sources = [f"{PROGRAMS}/token_logprobs_test.cpp", f"csrc/ops/token_logprobs/token_logprobs_{isa}.cpp"]
    done = build_and_run(tmp_path, target, sources, defines=(f"KERNELS=kLogprobKernels{TABLES[isa]}",))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_select_tokens_equals_a_stable_sort_on_aarch64(tmp_path: Path) -> None:
    """The instruction sets of x86 are covered by `tests/ops/test_isa.py`."""
    done = build_and_run(tmp_path, "aarch64", [f"{PROGRAMS}/select_tokens_test.cpp"])
    assert done.returncode == 0, done.stdout + done.stderr
