"""Benchmark cases by group: operators, shapes and the implementations to compare. Both clocks time the same list."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.cases.advantages import credit, gae
from benchmarks.cases.bandwidth import bandwidth
from benchmarks.cases.case import Case
from benchmarks.cases.divergences import token_divergences
from benchmarks.cases.heads import linear_token_logprobs
from benchmarks.cases.imports import import_time
from benchmarks.cases.logprobs import token_logprobs, token_logprobs_backward
from benchmarks.cases.machine import Machine
from benchmarks.cases.scaling import scaling
from benchmarks.cases.segmentation import scans, segment, select_tokens
from benchmarks.cases.trl_steps import trl_steps

GROUPS: dict[str, Callable[[Machine], Iterator[Case]]] = {
    function.__name__: function
    for function in (
        bandwidth,
        token_logprobs,
        token_logprobs_backward,
        token_divergences,
        scaling,
        segment,
        select_tokens,
        scans,
        gae,
        credit,
        linear_token_logprobs,
    )
}
CPU_GROUPS = {**GROUPS, import_time.__name__: import_time}
# Training steps take seconds on a CPU: `benchmarks.trl_steps` measures its CPU time there.
GPU_GROUPS = {**GROUPS, trl_steps.__name__: trl_steps}
ALL_GROUPS = CPU_GROUPS | GPU_GROUPS
