"""Bit primitives and the kernels of segment and hysteresis, in C++ for every instruction set, aarch64 under qemu."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.build.cpp_programs import PROGRAMS, TARGETS, build_and_run

pytestmark = [pytest.mark.compiles, pytest.mark.slow]


@pytest.mark.parametrize("target", TARGETS)
def test_bit_parallel_kernels_equal_the_scalar_definitions(target: str, tmp_path: Path) -> None:
    done = build_and_run(tmp_path, target, [f"{PROGRAMS}/segment_test.cpp"])
    assert done.returncode == 0, done.stdout + done.stderr
