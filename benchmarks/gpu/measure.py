"""`python -m benchmarks.gpu.measure GROUP --output FILE`: one group of measurements in a process of its own.

segkernel's results are compared with the truth first, on the inputs that it is then timed on. Every row is written when
it is known, so that what hangs or fails later takes nothing away. `--rehearse` goes through the same motions with small
tensors on the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import segkernel
from benchmarks.from_buffer import FromBuffer
from benchmarks.gpu import peers, truth
from benchmarks.gpu.clock import Clock, CudaClock, RehearsalClock, copy_bandwidth
from benchmarks.gpu.figures import BARE, OURS
from benchmarks.peers import (
    eager_logprobs,
    eager_logprobs_and_entropy,
    looped_gae,
    vectorised_segment,
)

# Per token, `segment` reads a float32 reward, and writes id, length, segment reward, sign and mask.
SEGMENT_BYTES = 4 + 4 + 4 + 4 + 1 + 1


@dataclass(frozen=True)
class Shapes:
    logits: tuple[int, int, int]
    run: int  # length of a run of kept tokens
    segment: tuple[tuple[int, int], ...]
    gae: tuple[int, int]
    head: tuple[int, int, int]  # tokens, width, vocabulary
    copied: int


FULL = Shapes(
    (8, 1024, 151936), 64, ((64, 4096), (1, 1 << 20), (4096, 1024)), (64, 4096), (8192, 4096, 151936), 1 << 31
)
SMALL = Shapes((2, 64, 130), 4, ((4, 65), (1, 257), (16, 32)), (4, 33), (16, 8, 130), 1 << 10)


class Measurements:
    """What a group measures with: the clock, the shapes, and where the rows go."""

    def __init__(self, clock: Clock, shapes: Shapes, output: Path) -> None:
        self.clock, self.shapes, self.output = clock, shapes, output
        self.rows: list[dict[str, Any]] = []

    def row(self, work: str, implementation: str, measure: Callable[[], dict[str, Any]], why: str = "failed") -> None:
        """Adds what `measure` returns, or what kept it from that."""
        row: dict[str, Any] = {"work": work, "implementation": implementation}
        try:
            row |= measure()
        except Exception as error:
            row[why] = repr(error)[:1000]
        self.rows.append(row)
        whole = self.output.with_suffix(".part")  # the file is whole at any time, whenever this process is stopped
        whole.write_text(json.dumps(self.rows, indent=1) + "\n")
        whole.replace(self.output)

    def peer(self, work: str, name: str, function: Any, measure: Callable[[Any], dict[str, Any]]) -> None:
        """Adds what `measure` returns of `function`. A peer may be missing (None), and may fail: its row says so."""

        def measured() -> dict[str, Any]:
            return {"missing": "not installed"} if function is None else measure(function)

        self.row(work, name, measured, why="missing")

    def logits(self) -> tuple[Tensor, Tensor]:
        B, T, V = self.shapes.logits
        logits = torch.empty(B, T, V, dtype=torch.bfloat16, device=self.clock.device).normal_(0, 2)
        return logits, torch.randint(V, (B, T), device=self.clock.device)


def shape(sizes: tuple[int, ...]) -> str:
    return str(list(sizes))


def bandwidth(m: Measurements) -> None:
    numel = m.shapes.copied
    m.row("copy", "torch", lambda: {"bytes_per_second": copy_bandwidth(m.clock, numel)})


def forward(m: Measurements) -> None:
    """Log-probs and entropy; all tokens, then a quarter of them in runs."""
    logits, labels = m.logits()
    work = f"log-probs + entropy, forward, {shape(m.shapes.logits)}"
    T = m.shapes.logits[1]
    kept = torch.arange(T, device=m.clock.device) % (4 * m.shapes.run) < m.shapes.run
    mask = kept.expand(labels.shape).contiguous()

    def ours(*inputs: Tensor) -> Any:
        return segkernel.token_logprobs(*inputs, entropy=True)

    def timed(function: Callable[..., Any], *arguments: Tensor, share: float = 1.0) -> dict[str, Any]:
        return {"seconds": m.clock.calls(function, [arguments]), "bytes": int(share * logits.nbytes)}

    def checked() -> dict[str, Any]:
        truth.logprobs_and_entropy(ours, logits, labels, mask)
        return timed(ours, logits, labels)

    with torch.no_grad():
        m.row(work, OURS, checked)
        m.row(work, f"{OURS}, 25 % kept", lambda: timed(ours, logits, labels, mask, share=0.25))
        implementations = {
            **peers.logprobs_and_entropy(),
            "eager torch": eager_logprobs_and_entropy,
            "torch.compile": m.clock.compiled(eager_logprobs_and_entropy),
        }
        for name, function in implementations.items():
            m.peer(work, name, function, lambda function: timed(function, logits, labels))


def backward(m: Measurements) -> None:
    """Log-probs forward and backward; the gradient goes over the logits, except where an implementation cannot."""
    original, labels = m.logits()
    logits = original.clone()
    work = f"log-probs, forward + backward, {shape(m.shapes.logits)}"
    anchor = torch.ones((), requires_grad=True, device=m.clock.device)

    def restore() -> None:
        logits.copy_(original)

    def timed(function: Callable[..., Tensor]) -> dict[str, Any]:
        def step() -> None:
            function(FromBuffer.apply(anchor, logits), labels).sum().backward()

        return {"seconds": m.clock.calls(step, [()], repeats=15, before=restore), "bytes": 3 * logits.nbytes}

    def ours(logits: Tensor, labels: Tensor) -> Tensor:
        return segkernel.token_logprobs(logits, labels, inplace_backward=True)

    def checked() -> dict[str, Any]:
        truth.gradient_in_place(ours, logits, labels)
        return timed(ours)

    m.row(work, OURS, checked)
    m.row(work, f"{OURS}, fresh gradient", lambda: timed(segkernel.token_logprobs))
    implementations = {
        **peers.losses(),
        "eager torch": eager_logprobs,
        "torch.compile": m.clock.compiled(eager_logprobs),
    }
    for name, function in implementations.items():
        m.peer(work, name, function, timed)


def segment(m: Measurements) -> None:
    def ours(rewards: Tensor) -> Any:
        return segkernel.segment(rewards, pivot_threshold=1.0, delta=0.5, sequence_sign=1)

    def vectorised(rewards: Tensor) -> Any:
        return vectorised_segment(rewards, 1.0, -0.5, 0.5, 1)

    for sizes in m.shapes.segment:
        numel = sizes[0] * sizes[1]
        turns = m.clock.rotations(4 * numel)
        inputs = [(torch.randn(sizes, device=m.clock.device),) for _ in range(min(turns, 256))]

        def replayed(function: Callable[..., Any], inputs: Any = inputs, numel: int = numel) -> dict[str, Any]:
            return {"seconds": m.clock.replays(function, inputs), "bytes": SEGMENT_BYTES * numel}

        def checked(inputs: Any = inputs, replayed: Callable[..., dict[str, Any]] = replayed) -> dict[str, Any]:
            truth.scan(ours, *inputs[0])
            return replayed(ours)

        work = f"segment {shape(sizes)}"
        m.row(work, OURS, checked)
        m.row(work, f"{OURS}, with the call", lambda inputs=inputs: {"seconds": m.clock.calls(ours, inputs)})
        m.row(work, "vectorised torch", lambda replayed=replayed: replayed(vectorised))


def gae(m: Measurements) -> None:
    sizes = m.shapes.gae
    work = f"gae {shape(sizes)}"
    turns = m.clock.rotations(8 * sizes[0] * sizes[1])
    inputs = [tuple(torch.randn(sizes, device=m.clock.device) for _ in range(2)) for _ in range(min(turns, 128))]

    def looped(rewards: Tensor, values: Tensor) -> Any:
        return looped_gae(rewards, values, 0.99, 0.95)

    def ours(rewards: Tensor, values: Tensor) -> Any:
        return segkernel.gae(rewards, values, gamma=0.99, lam=0.95)

    def checked() -> dict[str, Any]:
        truth.scan(ours, *inputs[0])
        return {"seconds": m.clock.replays(ours, inputs), "bytes": 16 * sizes[0] * sizes[1]}

    m.row(work, OURS, checked)
    m.row(work, f"{OURS}, with the call", lambda: {"seconds": m.clock.calls(ours, inputs)})
    m.row(work, "loop over steps", lambda: {"seconds": m.clock.calls(looped, inputs, repeats=3)})


def linear(m: Measurements) -> None:
    N, H, V = m.shapes.head
    work = f"linear_token_logprobs, forward + backward, N={N}, H={H}, V={V}"
    hidden = torch.randn(N, H, device=m.clock.device).bfloat16().requires_grad_()
    weight = (torch.randn(V, H, device=m.clock.device) / H**0.5).bfloat16().requires_grad_()
    labels = torch.randint(V, (N,), device=m.clock.device)

    def products() -> None:
        """The matrix products of a head whose logits stay in memory: no head can do without these three."""
        with torch.no_grad():
            logits = hidden @ weight.T
            torch.mm(logits, weight)
            torch.mm(logits.T, hidden)

    def timed(function: Callable[..., Tensor]) -> dict[str, Any]:
        def step() -> None:
            hidden.grad = weight.grad = None
            function(hidden, weight, labels).sum().backward()

        seconds = m.clock.calls(step, [()], repeats=7)
        hidden.grad = weight.grad = None
        gradients = hidden.nbytes + weight.nbytes  # the caller's, whoever computes them
        return {"seconds": seconds, "extra_bytes": max(0, m.clock.peak_bytes(step) - gradients)}

    def checked() -> dict[str, Any]:
        truth.head(segkernel.linear_token_logprobs, hidden, weight, labels)
        return timed(segkernel.linear_token_logprobs)

    m.row(work, BARE, lambda: {"seconds": m.clock.calls(products, [()], repeats=7)})
    m.row(work, OURS, checked)
    for name, function in peers.heads().items():
        m.peer(work, name, function, timed)


GROUPS: dict[str, Callable[[Measurements], None]] = {
    function.__name__: function for function in (bandwidth, forward, backward, segment, gae, linear)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    clock: Clock = RehearsalClock() if arguments.rehearse else CudaClock()
    measurements = Measurements(clock, SMALL if arguments.rehearse else FULL, arguments.output)
    GROUPS[arguments.group](measurements)
    failed = [row for row in measurements.rows if "failed" in row]
    for row in failed:
        print(f"{row['work']}, {row['implementation']}: {row['failed']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
