"""Sizes of the inputs on a CPU, on a GPU and in a rehearsal, and the random logits of all groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cases.case import Function

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Steps(NamedTuple):
    """Sizes of the training steps of TRL's trainers: those of the batch, and of the model."""

    rows: int
    prompt: int
    completion: int
    width: int = 576  # SmolLM2-135M
    layers: int = 30
    vocabulary: int = 49152


class Shapes(NamedTuple):
    """Sizes of one machine's benchmark."""

    logits: tuple[int, int, int]  # rows, tokens, vocabulary
    dtypes: tuple[str, ...]
    segment: tuple[tuple[int, int], ...]
    gae: tuple[tuple[int, int], ...]
    long_row: int
    head: tuple[int, int, int]  # tokens, width, vocabulary
    copied: int
    steps: Steps


CPU = Shapes(
    (4, 256, 151936),
    ("fp32", "bf16"),
    ((4, 128), (16, 1024), (64, 8192), (1, 1 << 20)),
    ((16, 1024), (1, 1 << 20)),
    1 << 20,
    (1024, 896, 151936),
    1 << 28,
    Steps(4, 64, 64),
)
GPU = Shapes(
    (8, 1024, 151936),
    ("bf16",),
    ((64, 4096), (1, 1 << 20), (4096, 1024)),
    ((64, 4096), (8192, 2048), (128, 4096), (1, 1 << 20)),
    1 << 20,
    (8192, 4096, 151936),
    1 << 31,
    Steps(8, 256, 768),
)
REHEARSAL = Shapes(
    (2, 64, 130),
    ("bf16",),
    ((4, 65), (1, 257), (16, 32)),
    ((4, 33), (1, 257)),
    257,
    (16, 8, 130),
    1 << 10,
    Steps(2, 4, 8, 192, 1, 130),
)


class Machine(NamedTuple):
    """Device, shapes, torch.compile, and the count of inputs whose calls, of so many bytes each, exceed the cache."""

    device: str
    shapes: Shapes
    compiled: Callable[[Function], Function]
    rotations: Callable[[int], int]


def random_logits(machine: Machine, dtype: str) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] of standard deviation 2, and labels [B, T]."""
    sizes = machine.shapes.logits
    logits = torch.empty(sizes, dtype=DTYPES[dtype], device=machine.device).normal_(0, 2)
    return logits, torch.randint(sizes[-1], sizes[:-1], device=machine.device)


def quarter_of_tokens(like: Tensor) -> Tensor:
    """Mask [B, T] that keeps a quarter of each row, in runs of 16 tokens."""
    T = like.shape[1]
    positions, run = torch.arange(T, device=like.device), min(16, T // 4)
    return (positions % (4 * run) < run).expand(like.shape[:2]).contiguous()
