"""Rules that every compiled kernel must obey, and the comparison with the stored audit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from benchmarks.cuda_audit.kernels import Kernel

Kernels = Mapping[tuple[str, str], Kernel]  # by name and architecture

# Kernels that read rows of logits, and the most instructions per 512 bytes; the first pattern that matches holds. Above
# about 100, an H200 issues instructions for longer than its memory takes: 132 multiprocessors x 4 instructions per
# cycle x 1.8 GHz against 4.8 TB/s.
LOGITS = r"(token_logprobs|few_rows|gradient|fold|tile_gradient|token_divergences|pair_gradient)_kernel"
MOST_INSTRUCTIONS = (
    # The gradient of the Jensen-Shannon divergence takes two exponentials and two logarithms per pair of logits.
    (re.compile(r"pair_gradient_kernel<true, js"), 265),
    (re.compile(r"pair_gradient_kernel<false, js"), 205),
    # All statistics of a row at once (`outputs=`) take more variables than there are registers.
    (re.compile(rf"{LOGITS}<true, statistics"), 225),
    (re.compile(rf"{LOGITS}<false, statistics"), 125),
    # A softcap takes a second exponential and a division per logit.
    (re.compile(rf"{LOGITS}<true"), 160),
    (re.compile(rf"{LOGITS}<false"), 100),
)
# Kernels whose loop may use local memory.
SPILLING = re.compile(rf"{LOGITS}<\w+, statistics")
TOLERANCE = 1.02  # of instructions, against the stored audit


def violations(kernels: Kernels) -> Iterator[str]:
    """Sentences about kernels that break a rule. Kernels in float64 serve tests of gradients; none holds for them."""
    for (name, architecture), kernel in kernels.items():
        where = f"{name}, {architecture}"
        if "double" in name:
            continue
        if kernel.local_accesses and SPILLING.match(name) is None:
            yield f"{where}: expected no local memory in the loop, got {kernel.local_accesses} accesses per iteration"
        most = next((most for pattern, most in MOST_INSTRUCTIONS if pattern.match(name)), None)
        if most is None:
            continue
        if kernel.wide_loads == 0:
            yield f"{where}: expected loads of 128 bits where the logits are read, got none"
        if kernel.instructions > most:
            yield f"{where}: expected at most {most} instructions per 512 bytes, got {kernel.instructions}"


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
        if kernel.instructions > TOLERANCE * before.instructions:
            yield f"{where}: {kernel.instructions} instructions per 512 bytes, stored {before.instructions}"
        if kernel.stack > before.stack:
            yield f"{where}: a stack of {kernel.stack} bytes, stored {before.stack}"
        if kernel.wide_loads < before.wide_loads:
            yield f"{where}: {kernel.wide_loads} loads of 128 bits per iteration, stored {before.wide_loads}"
    for name, architecture in stored.keys() - kernels.keys():
        yield f"{name}, {architecture}: stored, but not compiled any more"
