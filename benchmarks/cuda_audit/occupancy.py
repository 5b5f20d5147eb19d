"""Occupancy: the warps that a multiprocessor holds at once, from a kernel's registers, shared memory and block size.

The rules of allocation and the limits are those of the CUDA C++ Programming Guide, "Compute Capabilities".
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
REGISTERS = 65536  # of a multiprocessor
REGISTERS_AT_ONCE = 256  # a warp gets a multiple
WARPS_AT_ONCE = 4  # one per scheduler
RESERVED_SHARED_MEMORY = 1024  # bytes per block


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of an architecture's multiprocessor; shared memory in bytes."""

    warps: int
    blocks: int
    shared_memory: int

    def occupancy(self, registers: int, shared_memory: int, threads: int) -> float:
        """Share of the multiprocessor's warps that it holds with blocks of `threads` threads.

        Example:
            >>> ARCHITECTURES["9.0"].occupancy(registers=64, shared_memory=1040, threads=256)
            0.5
            >>> ARCHITECTURES["9.0"].occupancy(registers=32, shared_memory=65536, threads=256)
            0.375
        """
        warps = -(-threads // WARP)
        by_warp = -(-registers * WARP // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
        by_registers = REGISTERS // by_warp // WARPS_AT_ONCE * WARPS_AT_ONCE // warps
        by_shared_memory = self.shared_memory // (shared_memory + RESERVED_SHARED_MEMORY)
        return min(by_registers, by_shared_memory, self.warps // warps, self.blocks) * warps / self.warps


ARCHITECTURES = {
    "8.0": Multiprocessor(warps=64, blocks=32, shared_memory=164 * 1024),  # A100
    "9.0": Multiprocessor(warps=64, blocks=32, shared_memory=228 * 1024),  # H100, H200
    "10.0": Multiprocessor(warps=64, blocks=32, shared_memory=228 * 1024),  # B200
    "12.0": Multiprocessor(warps=48, blocks=24, shared_memory=100 * 1024),  # RTX 50 series
}
