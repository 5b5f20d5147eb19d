"""Rules that every compiled kernel must obey, and the comparison with the stored audit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from benchmarks.cuda_audit.kernels import Kernel

Kernels = Mapping[tuple[str, str], Kernel]  # by name and architecture

# Kernels that read rows of logits, and the most cycles per 512 bytes; the first pattern that matches holds. Above about
# 100, an H200 computes for longer than its memory takes: 132 multiprocessors x 4 schedulers x 1.755 GHz for 4.8 TB/s.
LOGITS = r"(token_logprobs|few_rows|fold|token_divergences)_kernel"
MOST_CYCLES = (
    # The gradient of the Jensen-Shannon divergence takes two exponentials and two logarithms per pair of logits.
    (re.compile(r"pair_gradient_kernel<true, js"), 305),
    (re.compile(r"pair_gradient_kernel<false, js"), 205),
    # Gradients write half as many bytes as they read, or as many; a softcap takes an exponential and a reciprocal.
    (re.compile(r"pair_gradient_kernel<true"), 200),
    (re.compile(r"pair_gradient_kernel<false"), 100),
    (re.compile(r"(tile_)?gradient_kernel<true"), 200),
    (re.compile(r"(tile_)?gradient_kernel<false"), 100),
    (re.compile(rf"{LOGITS}<(\d+, )?true, statistics"), 180),
    (re.compile(rf"{LOGITS}<(\d+, )?true"), 160),
    (re.compile(rf"{LOGITS}<(\d+, )?false"), 100),
)
TOLERANCE = 1.02  # of cycles, against the stored audit


def violations(kernels: Kernels) -> Iterator[str]:
    """Sentences about kernels that break a rule."""
    for (name, architecture), kernel in kernels.items():
        where = f"{name}, {architecture}"
        if kernel.local_accesses:
            yield f"{where}: expected no local memory in the loop, got {kernel.local_accesses} accesses per iteration"
        most = next((most for pattern, most in MOST_CYCLES if pattern.match(name)), None)
        if most is None:
            continue
        if kernel.wide_loads == 0:
            yield f"{where}: expected loads of 128 bits where the logits are read, got none"
        if kernel.cycles > most:
            yield (
                f"{where}: expected at most {most} cycles per 512 bytes, got {kernel.cycles} "
                f"({kernel.instructions} instructions, {kernel.special} of them special functions)"
            )


def regressions(kernels: Kernels, stored: Kernels) -> Iterator[str]:
    """Sentences about kernels that became worse than stored."""
    for (name, architecture), kernel in kernels.items():
        where, before = f"{name}, {architecture}", stored.get((name, architecture))
        if before is None:
            yield f"{where}: not in the stored audit"
            continue
        occupancy, occupancy_before = kernel.occupancy(architecture), before.occupancy(architecture)
        if occupancy < occupancy_before:
            yield (
                f"{where}: occupancy {occupancy:.0%}, stored {occupancy_before:.0%} (registers {kernel.registers}, "
                f"stored {before.registers}; shared memory {kernel.shared_memory}, stored {before.shared_memory})"
            )
        if kernel.cycles > TOLERANCE * before.cycles:
            yield f"{where}: {kernel.cycles} cycles per 512 bytes, stored {before.cycles}"
        if kernel.stack > before.stack:
            yield f"{where}: a stack of {kernel.stack} bytes, stored {before.stack}"
        if kernel.wide_loads < before.wide_loads:
            yield f"{where}: {kernel.wide_loads} loads of 128 bits per iteration, stored {before.wide_loads}"
    for name, architecture in stored.keys() - kernels.keys():
        yield f"{name}, {architecture}: stored, but not compiled any more"
