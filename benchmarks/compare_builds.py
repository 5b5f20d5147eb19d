"""`python -m benchmarks.compare_builds BEFORE AFTER`: speed of two built checkouts, interleaved.

Each checkout runs in a process of its own. The processes take turns, so that changes of load affect both alike.
Prints the median time per call and the median of the ratios of neighboring turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

SECONDS_PER_TURN = 0.1


def cases() -> dict[str, Callable[[], object]]:
    """The calls to time, by name. Only public functions that every version has."""
    import segkernel

    generator = torch.Generator().manual_seed(0)

    def scores(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    calls: dict[str, Callable[[], object]] = {}
    options: dict[str, Any] = {"pivot_threshold": 1.0, "delta": 0.5}
    for rows, length in ((4, 128), (16, 1024), (64, 8192)):
        rewards, sign = scores(rows, length), scores(rows)
        mask = torch.rand((rows, length), generator=generator) < 0.25
        name = f"[{rows}, {length}]"
        calls[f"segment {name}"] = lambda r=rewards, s=sign: segkernel.segment(r, sequence_sign=s, **options)
        if rows > 4:
            calls[f"segment {name}, 25 % valid"] = lambda r=rewards, s=sign, m=mask: segkernel.segment(
                r, m, sequence_sign=s, **options
            )
    rewards, values = scores(64, 2048), scores(64, 2048)
    mask = torch.rand((64, 2048), generator=generator) < 0.9
    segments = segkernel.segment(rewards, mask, **options)
    size = int(segments.counts.max())
    calls |= {
        "hysteresis [64, 2048]": lambda: segkernel.hysteresis(rewards, mask, low=-0.5, high=0.5),
        "detect_pivots [64, 2048]": lambda: segkernel.detect_pivots(rewards, mask, threshold=1.0),
        "gae [64, 2048]": lambda: segkernel.gae(rewards, values, mask, gamma=0.99, lam=0.95),
        "segment_reduce [64, 2048]": lambda: segkernel.segment_reduce(values, segments.ids, size),
        "segment_broadcast [64, 2048]": lambda: segkernel.segment_broadcast(segments.rewards, segments.ids),
    }
    labels = torch.randint(151936, (256,), generator=generator)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        logits = scores(256, 151936).to(dtype)
        source = logits.clone().requires_grad_()

        def backward(source: torch.Tensor = source) -> None:
            source.grad = None
            segkernel.token_logprobs(source, labels).sum().backward()

        calls[f"token_logprobs + entropy, {name}"] = lambda x=logits: segkernel.token_logprobs(x, labels, entropy=True)
        calls[f"token_logprobs forward + backward, {name}"] = backward
    hidden = scores(256, 512).bfloat16().requires_grad_()
    weight = scores(32768, 512).bfloat16().requires_grad_()
    head_labels = torch.randint(32768, (256,), generator=generator)

    def head() -> None:
        hidden.grad = weight.grad = None
        segkernel.linear_token_logprobs(hidden, weight, head_labels).sum().backward()

    calls["linear_token_logprobs forward + backward, bf16"] = head
    return calls


def work() -> None:
    """Time the cases named on standard input, one turn a line."""
    calls = cases()
    repeats: dict[str, int] = {}
    print(json.dumps(list(calls)), flush=True)
    for line in sys.stdin:
        call = calls[line.rstrip("\n")]
        call()
        number = repeats.get(line, 1)
        began = time.perf_counter()
        for _ in range(number):
            call()
        seconds = (time.perf_counter() - began) / number
        repeats[line] = max(1, int(SECONDS_PER_TURN / seconds))
        print(seconds, flush=True)


class Worker:
    """A process that times the cases of one checkout."""

    def __init__(self, checkout: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(Path(__file__).resolve()), "--work"]
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.cases: list[str] = json.loads(self.read())

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("compare_builds: a worker ended early; its error is above")
        return line

    def turn(self, case: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        return float(self.read())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path, help="a checkout whose libraries are built in place")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--turns", type=int, default=15, help="turns per case and checkout")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    before, after = (Worker(path, arguments.threads) for path in (arguments.before, arguments.after))
    rows = []
    for case in before.cases:
        if arguments.only not in case:
            continue
        for worker in (before, after):  # the first turn calls once and sets the number of calls of the others
            worker.turn(case)
        pairs = [(before.turn(case), after.turn(case)) for _ in range(arguments.turns)]
        first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append({"case": case, "before_us": 1e6 * first, "after_us": 1e6 * second, "ratio": ratio})
        print(f"{case}: {ratio:.3f}", file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", floatfmt=("", ".1f", ".1f", ".3f")))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else sys.exit(main())
