"""Benchmark cases: operators, shapes and the implementations to compare. Both clocks time the same list."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

import segkernel
from benchmarks import peers, truth
from benchmarks.from_buffer import FromBuffer
from benchmarks.targets import BARE, FEW, FEW_BACKWARD, OURS

KEPT = f"{OURS}, 25 % kept"
# Series of `scaling`.
BY_SHARE, BY_TOKENS, BY_VOCABULARY = "by share", "by tokens", "by vocabulary"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Per token, `segment` reads a float32 reward and writes id, length, segment reward, sign and mask.
SEGMENT_BYTES = 4 + 4 + 4 + 4 + 1 + 1
GAE_BYTES = 4 * 4
SELECT_BYTES = 4 + 1 + 1  # per token, a float32 value and the mask are read, the selection is written

Function = Callable[..., Any]


def nothing() -> None:
    """No preparation."""


@dataclass(frozen=True)
class Case:
    """Implementations of one piece of work on the same inputs.

    Args:
        work: name of the work, with its shape.
        implementations: by name, the reference of the ratios first; `None` where a peer is not installed.
        inputs: arguments of several calls, used in turn so that a GPU does not find them in its cache.
        bytes_moved: bytes the work has to move, by implementation where it differs ("" for all others).
        check: raises AssertionError where segkernel's result is wrong on these inputs.
        before: called before each timed call, untimed.
        captured: whether the GPU clock replays the calls from a CUDA graph, which removes the launch overhead.
        slow: implementations that take seconds per call: few repeats, never captured.
        caller_bytes: size of the gradients that every implementation returns; measures peak memory beyond it.
    """

    work: str
    implementations: Mapping[str, Function | None]
    inputs: Sequence[tuple[Any, ...]] = ((),)
    bytes_moved: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[], None] = nothing
    before: Callable[[], Any] = nothing
    captured: bool = False
    slow: tuple[str, ...] = ()
    caller_bytes: int | None = None

    def bytes_of(self, implementation: str) -> int | None:
        return self.bytes_moved.get(implementation, self.bytes_moved.get(""))


class Shapes(NamedTuple):
    """Sizes of one machine's benchmark."""

    logits: tuple[int, int, int]  # rows, tokens, vocabulary
    dtypes: tuple[str, ...]
    segment: tuple[tuple[int, int], ...]
    gae: tuple[int, int]
    head: tuple[int, int, int]  # tokens, width, vocabulary
    copied: int


CPU = Shapes(
    (4, 256, 151936),
    ("fp32", "bf16"),
    ((4, 128), (16, 1024), (64, 8192)),
    (16, 1024),
    (1024, 896, 151936),
    1 << 28,
)
GPU = Shapes(
    (8, 1024, 151936),
    ("bf16",),
    ((64, 4096), (1, 1 << 20), (4096, 1024)),
    (64, 4096),
    (8192, 4096, 151936),
    1 << 31,
)
REHEARSAL = Shapes((2, 64, 130), ("bf16",), ((4, 65), (1, 257), (16, 32)), (4, 33), (16, 8, 130), 1 << 10)


class Machine(NamedTuple):
    """Device, shapes, torch.compile, and the count of inputs whose calls, of so many bytes each, exceed the cache."""

    device: str
    shapes: Shapes
    compiled: Callable[[Function], Function]
    rotations: Callable[[int], int]


def shape(sizes: tuple[int, ...]) -> str:
    return str(list(sizes))


def bandwidth(machine: Machine) -> Iterator[Case]:
    """Copy of a tensor: the memory bandwidth that bandwidth-bound kernels are measured against."""
    source = torch.empty(machine.shapes.copied, dtype=torch.bfloat16, device=machine.device).normal_()
    target = torch.empty_like(source)
    yield Case("copy", {"torch": lambda: target.copy_(source)}, bytes_moved={"": 2 * source.nbytes})
    reads = {"torch.sum": lambda: source.sum(), "torch.amax": lambda: source.amax()}
    yield Case("read", reads, bytes_moved={"": source.nbytes})


def _logits(machine: Machine, dtype: str) -> tuple[Tensor, Tensor]:
    sizes = machine.shapes.logits
    logits = torch.empty(sizes, dtype=DTYPES[dtype], device=machine.device).normal_(0, 2)
    return logits, torch.randint(sizes[-1], sizes[:-1], device=machine.device)


def token_logprobs(machine: Machine) -> Iterator[Case]:
    """Log-probabilities and entropy, forward: all tokens, and a quarter of them in runs of 16."""
    for dtype in machine.shapes.dtypes:
        logits, labels = _logits(machine, dtype)
        positions, run = torch.arange(labels.shape[1], device=machine.device), min(16, labels.shape[1] // 4)
        mask = (positions % (4 * run) < run).expand(labels.shape).contiguous()

        def ours(*inputs: Tensor) -> Any:
            return segkernel.token_logprobs(*inputs, entropy=True)

        def kept(logits: Tensor, labels: Tensor, mask: Tensor = mask) -> Any:
            return ours(logits, labels, mask)

        yield Case(
            f"token_logprobs + entropy, forward, {dtype} {shape(machine.shapes.logits)}",
            {
                OURS: ours,
                KEPT: kept,
                **peers.logprobs_and_entropy(machine.device),
                "torch.compile": machine.compiled(peers.eager_logprobs_and_entropy),
                "eager torch": peers.eager_logprobs_and_entropy,
            },
            [(logits, labels)],
            {"": logits.nbytes, KEPT: int(logits.nbytes * mask.float().mean())},
            lambda inputs=(logits, labels, mask): truth.logprobs_and_entropy(ours, *inputs),
        )

        def all_outputs(*inputs: Tensor) -> Any:
            names = ("entropy", "sum_squares", "mean_logit", "is_argmax")
            return segkernel.token_logprobs(*inputs, outputs=names)

        yield Case(
            f"token_logprobs + all outputs, forward, {dtype} {shape(machine.shapes.logits)}",
            {
                OURS: all_outputs,
                "torch.compile": machine.compiled(peers.eager_outputs),
                "eager torch": peers.eager_outputs,
            },
            [(logits, labels)],
            {"": logits.nbytes},
            lambda inputs=(logits, labels), ours=all_outputs: truth.outputs(ours, *inputs),
        )

        K = 16  # a teacher's most likely tokens
        several = torch.randint(logits.shape[-1], (*labels.shape, K), device=machine.device)
        yield Case(
            f"token_logprobs of {K} labels, forward, {dtype} {shape(machine.shapes.logits)}",
            {
                OURS: segkernel.token_logprobs,
                "torch.compile": machine.compiled(peers.eager_logprobs_of_several),
                "eager torch": peers.eager_logprobs_of_several,
            },
            [(logits, several)],
            {"": logits.nbytes},
            lambda inputs=(logits, several): truth.several_labels(segkernel.token_logprobs, *inputs),
        )

        # Few rows, in the layout of one short batch. The masks keep other rows each.
        rows = min(512, labels.numel())
        few, few_labels = logits.flatten(0, 1)[None, :rows], labels.view(1, -1)[:, :rows]
        turns = torch.arange(rows, device=machine.device) // min(16, rows // 4) % 4
        inputs = [(few, few_labels, (turns == turn)[None]) for turn in range(4)]
        yield Case(
            f"{FEW}: {rows // 4} of {rows} kept, {dtype} V={logits.shape[-1]}",
            {OURS: ours},
            inputs,
            {"": few.nbytes // 4},
            lambda inputs=inputs[0]: truth.logprobs_and_entropy(ours, *inputs),
            captured=True,
        )


def scaling(machine: Machine) -> Iterator[Case]:
    """Log-probabilities and entropy of more tokens, of a larger vocabulary, and of a smaller share of kept tokens."""
    dtype = machine.shapes.dtypes[-1]
    logits, labels = _logits(machine, dtype)
    logits, labels = logits.flatten(0, 1)[None], labels.view(1, -1)
    tokens, vocabulary = logits.shape[1:]

    def ours(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Any:
        return segkernel.token_logprobs(logits, labels, mask, entropy=True)

    def case(series: str, logits: Tensor, labels: Tensor, divisor: int = 1) -> Case:
        mask = (torch.arange(labels.shape[1], device=machine.device) % divisor == 0)[None]
        kept = f", 1 of {divisor} kept" if divisor > 1 else ""
        return Case(
            f"{series}: token_logprobs + entropy, {dtype} {shape(tuple(logits.shape[1:]))}{kept}",
            {
                OURS: lambda logits, labels: ours(logits, labels, mask if divisor > 1 else None),
                **peers.logprobs_and_entropy(machine.device),
                "eager torch": peers.eager_logprobs_and_entropy,
            },
            [(logits, labels)],
            {"": logits.nbytes, OURS: logits.nbytes * int(mask.sum()) // labels.numel()},
            lambda: truth.logprobs_and_entropy(ours, logits, labels, mask),
        )

    for divisor in (1, 2, 4, 8, 16, 32):
        yield case(BY_SHARE, logits, labels, divisor)
    for divisor in (16, 4, 1):
        yield case(BY_TOKENS, logits[:, : tokens // divisor], labels[:, : tokens // divisor])
    for divisor in (16, 4, 1):
        width = vocabulary // divisor
        yield case(BY_VOCABULARY, logits[..., :width].contiguous(), labels.clamp(max=width - 1))


def token_logprobs_backward(machine: Machine) -> Iterator[Case]:
    """Log-probabilities, forward and backward; the gradient replaces the logits where an implementation can do so."""
    anchor = torch.ones((), requires_grad=True, device=machine.device)
    for dtype in machine.shapes.dtypes:
        original, labels = _logits(machine, dtype)
        logits = original.clone()

        def ours(logits: Tensor, labels: Tensor) -> Tensor:
            return segkernel.token_logprobs(logits, labels, inplace_backward=True)

        def step(function: Function | None, logits: Tensor = logits, labels: Tensor = labels) -> Function | None:
            return function and (lambda: function(FromBuffer.apply(anchor, logits), labels).sum().backward())

        implementations = {
            OURS: ours,
            f"{OURS}, fresh gradient": segkernel.token_logprobs,
            **peers.logprob_losses(machine.device),
            "torch.compile": machine.compiled(peers.eager_logprobs),
            "eager torch": peers.eager_logprobs,
        }
        yield Case(
            f"token_logprobs, forward + backward, {dtype} {shape(machine.shapes.logits)}",
            {name: step(function) for name, function in implementations.items()},
            bytes_moved={"": 3 * logits.nbytes},  # one read forward, one read and one write backward
            check=lambda logits=logits, labels=labels: truth.gradient_in_place(ours, logits, labels),
            before=lambda logits=logits, original=original: logits.copy_(original),
        )

        rows = min(128, labels.numel() // 4)
        weights = torch.ones(rows, device=machine.device)
        inputs = [
            (
                few,
                few_labels,
                torch.ops.segkernel.token_logprobs(few, few_labels, None, None, 1.0, 1.0, None, 0, False)[2],
            )
            for few, few_labels in zip(
                original.flatten(0, 1).split(rows)[:4], labels.flatten().split(rows)[:4], strict=True
            )
        ]

        def backward(logits: Tensor, labels: Tensor, lse: Tensor, weights: Tensor = weights) -> Tensor:
            return torch.ops.segkernel.token_logprobs_backward(
                weights, None, logits, labels, None, None, weights, lse, 1.0, 1.0, None
            )

        yield Case(
            f"{FEW_BACKWARD}: {rows}, {dtype} V={logits.shape[-1]}",
            {OURS: backward},
            inputs,
            {"": 2 * inputs[0][0].nbytes},
            lambda inputs=inputs[0], backward=backward: truth.gradient(backward, *inputs),
            captured=True,
        )


def token_divergences(machine: Machine) -> Iterator[Case]:
    """Divergences of two models' logits with their entropies, and the KL with its gradient in place."""
    anchor = torch.ones((), requires_grad=True, device=machine.device)
    for dtype in machine.shapes.dtypes:
        whole, _ = _logits(machine, dtype)
        original = whole[: len(whole) // 2].clone()
        logits, others = original.clone(), (original + 0.3 * torch.randn_like(original)).to(original.dtype)
        positions, run = torch.arange(logits.shape[1], device=machine.device), min(16, logits.shape[1] // 4)
        mask = (positions % (4 * run) < run).expand(logits.shape[:2]).contiguous()

        def step(function: Function | None, logits: Tensor = logits, others: Tensor = others) -> Function | None:
            return function and (lambda: function(FromBuffer.apply(anchor, logits), others).sum().backward())

        for kind, eager in peers.EAGER_DIVERGENCES.items():

            def ours(logits: Tensor, others: Tensor, mask: Tensor | None = None, kind: str = kind) -> Tensor:
                return segkernel.token_divergences(logits, others, mask, kind=kind).divergence

            def kept(logits: Tensor, others: Tensor, ours: Function = ours, mask: Tensor = mask) -> Any:
                return ours(logits, others, mask)

            yield Case(
                f"token_divergences, {kind}, forward, {dtype} {shape(tuple(logits.shape))}",
                {
                    OURS: ours,
                    KEPT: kept,
                    **peers.divergences(machine.device, kind),
                    "torch.compile": machine.compiled(eager),
                    "eager torch": eager,
                },
                [(logits, others)],
                {"": 2 * logits.nbytes, KEPT: int(2 * logits.nbytes * mask.float().mean())},
                lambda inputs=(logits, others), ours=ours, kind=kind: truth.divergences(ours, kind, *inputs),
            )

        def in_place(logits: Tensor, others: Tensor) -> Tensor:
            return segkernel.token_divergences(logits, others, inplace_backward=True).divergence

        implementations = {
            OURS: in_place,
            **peers.divergences(machine.device, "kl"),
            "torch.compile": machine.compiled(peers.eager_kl),
            "eager torch": peers.eager_kl,
        }
        yield Case(
            f"token_divergences, kl, forward + backward, {dtype} {shape(tuple(logits.shape))}",
            {name: step(function) for name, function in implementations.items()},
            bytes_moved={"": 5 * logits.nbytes},  # two reads forward, two reads and a write backward
            check=lambda inputs=(logits, others), ours=in_place: truth.divergences(ours, "kl", *inputs),
            before=lambda logits=logits, original=original: logits.copy_(original),
        )
    yield divergence_of_heads(machine)


def divergence_of_heads(machine: Machine) -> Case:
    """KL from the hidden states and LM heads of two models, in bfloat16, with all logits in memory or in tiles."""
    N, H, V = machine.shapes.head
    N //= 4
    tensors = [
        (torch.randn(*sizes, device=machine.device) / scale).bfloat16()
        for sizes, scale in (((N, H), 1), ((V, H), H**0.5)) * 2
    ]
    trained = [tensor.requires_grad_() for tensor in tensors[:2]]

    def ours(hidden: Tensor, weight: Tensor, other_hidden: Tensor, other_weight: Tensor) -> Tensor:
        with torch.no_grad():
            others = other_hidden @ other_weight.T
        return segkernel.token_divergences(hidden @ weight.T, others, inplace_backward=True).divergence

    def step(function: Function | None) -> Function | None:
        return function and (lambda: function(*tensors).sum().backward())

    def drop_gradients() -> None:
        for tensor in trained:
            tensor.grad = None

    implementations = {OURS: ours, "TRL chunked": peers.trl_chunked_divergence()}
    return Case(
        f"token_divergences, kl, of two heads, forward + backward, bf16 N={N}, H={H}, V={V}",
        {name: step(function) for name, function in implementations.items()},
        check=lambda: truth.divergences(
            lambda logits, others: segkernel.token_divergences(logits, others).divergence,
            "kl",
            *((hidden @ weight.T).detach()[None] for hidden, weight in (tensors[:2], tensors[2:])),
        ),
        before=drop_gradients,
        slow=tuple(implementations),
        caller_bytes=sum(tensor.nbytes for tensor in trained),
    )


def segment(machine: Machine) -> Iterator[Case]:
    """Pivots, trigger, segments, their rewards and signs, and the loss mask."""

    def ours(rewards: Tensor) -> Any:
        return segkernel.segment(rewards, pivot_threshold=1.0, delta=0.5, sequence_sign=1)

    def kept(rewards: Tensor) -> Any:
        return segkernel.segment(rewards, masks[rewards.shape], pivot_threshold=1.0, delta=0.5, sequence_sign=1)

    def vectorized(rewards: Tensor) -> Any:
        return peers.vectorized_segment(rewards, 1.0, -0.5, 0.5, 1)

    def looped(rewards: Tensor) -> Any:
        return peers.looped_segment(rewards, 1.0, -0.5, 0.5, 1)

    masks: dict[torch.Size, Tensor] = {}
    for sizes in machine.shapes.segment:
        numel = sizes[0] * sizes[1]
        count = min(machine.rotations(4 * numel), 256)
        inputs = [(torch.randn(sizes, device=machine.device),) for _ in range(count)]
        # The response is the last quarter of each row, after its prompt.
        after_prompt = torch.arange(sizes[1], device=machine.device) >= sizes[1] * 3 // 4
        masks[inputs[0][0].shape] = after_prompt.expand(sizes).contiguous()
        implementations: dict[str, Function | None] = {OURS: ours, KEPT: kept, "vectorized torch": vectorized}
        if machine.device == "cpu":  # one `.item()` per token takes minutes on a GPU
            implementations["loop over tokens"] = looped
        yield Case(
            f"segment {shape(sizes)}",
            implementations,
            inputs,
            {"": SEGMENT_BYTES * numel},
            lambda inputs=inputs: truth.scan(ours, *inputs[0]),
            captured=True,
            slow=("loop over tokens",),
        )


def select_tokens(machine: Machine) -> Iterator[Case]:
    """A fifth of the response's tokens, those with the largest values. The response is the last 3/4 of each row."""
    fraction = 0.2
    for sizes in machine.shapes.segment:
        numel = sizes[0] * sizes[1]
        count = min(machine.rotations(5 * numel), 128)
        positions = torch.arange(sizes[1], device=machine.device)
        mask = (positions >= sizes[1] // 4).expand(sizes).contiguous()
        inputs = [(torch.randn(sizes, device=machine.device), mask) for _ in range(count)]
        k = math.ceil(fraction * (sizes[1] - sizes[1] // 4))

        def ours(values: Tensor, mask: Tensor) -> Tensor:
            return segkernel.select_tokens(values, mask, fraction=fraction)

        def of_batch(values: Tensor, mask: Tensor) -> Tensor:
            return segkernel.select_tokens(values, mask, fraction=fraction, scope="batch")

        def topk(values: Tensor, mask: Tensor, k: int = k) -> Tensor:
            return peers.topk_selection(values, mask, k)

        def quantile(values: Tensor, mask: Tensor) -> Tensor:
            return peers.quantile_selection(values, mask, fraction)

        yield Case(
            f"select_tokens {shape(sizes)}",
            {
                OURS: ours,
                f"{OURS}, whole batch": of_batch,
                "topk and scatter": topk,
                "quantile and compare": quantile,
            },
            inputs,
            {"": SELECT_BYTES * numel},
            lambda inputs=inputs, ours=ours: truth.selection(ours, *inputs[0]),
            captured=True,
        )


def gae(machine: Machine) -> Iterator[Case]:
    """Generalized advantage estimation."""
    sizes = machine.shapes.gae
    numel = sizes[0] * sizes[1]
    count = min(machine.rotations(8 * numel), 128)
    inputs = [tuple(torch.randn(sizes, device=machine.device) for _ in range(2)) for _ in range(count)]

    def ours(rewards: Tensor, values: Tensor) -> Any:
        return segkernel.gae(rewards, values, gamma=0.99, lam=0.95)

    def looped(rewards: Tensor, values: Tensor) -> Any:
        return peers.looped_gae(rewards, values, 0.99, 0.95)

    yield Case(
        f"gae {shape(sizes)}",
        {OURS: ours, "loop over steps": looped},
        inputs,
        {"": GAE_BYTES * numel},
        lambda: truth.scan(ours, *inputs[0]),
        captured=True,
        slow=("loop over steps",),
    )


def credit(machine: Machine) -> Iterator[Case]:
    """Steps from rewards to advantages: discounted sums, turns, normalization within groups, importance weights."""
    rows, length = sizes = machine.shapes.gae
    numel = rows * length

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=machine.device)

    # Turns of 48 tokens between tool output of 16.
    turns = (torch.arange(length, device=machine.device) % 64 < 48).expand(sizes).contiguous()
    # Groups of 8 samples with up to 16 rewards each.
    samples = numel // 16
    group = torch.arange(samples, device=machine.device) // 8
    counts = torch.randint(1, 17, (samples,), device=machine.device)

    def discounted(values: Tensor) -> Tensor:
        return segkernel.discounted_sum(values, discount=0.99)

    def runs(mask: Tensor) -> Any:
        return segkernel.segment_by_mask(mask)

    def looped(values: Tensor) -> Tensor:
        return peers.looped_discounted_sum(values, 0.99)

    def normalized(values: Tensor) -> Tensor:
        return segkernel.group_normalize(values, counts, group)

    def scattered(values: Tensor) -> Tensor:
        return peers.scattered_group_normalize(values, counts, group)

    def weights(logprobs: Tensor, rollout_logprobs: Tensor) -> Any:
        return segkernel.importance_weights(logprobs, rollout_logprobs, turns, level="sequence", high=2.0)

    def eager_weights(logprobs: Tensor, rollout_logprobs: Tensor) -> Any:
        log_ratios = torch.where(turns, logprobs - rollout_logprobs, 0.0)
        ratios = (log_ratios.sum(1, keepdim=True) / turns.sum(1, keepdim=True)).exp().clamp(max=2.0)
        return torch.where(turns, ratios, 0.0), turns

    for name, ours, (peer, theirs), inputs, moved in (
        (f"discounted_sum {shape(sizes)}", discounted, ("loop over steps", looped), (random(*sizes),), 8),
        (
            f"segment_by_mask {shape(sizes)}",
            segkernel.segment_by_mask,
            ("eager torch", peers.vectorized_runs),
            (turns,),
            5,
        ),
        (
            f"group_normalize {shape((samples, 16))}",
            normalized,
            ("scatter_add", scattered),
            (random(samples, 16),),
            8,
        ),
        (
            f"importance_weights, per sequence {shape(sizes)}",
            weights,
            ("eager torch", eager_weights),
            (random(*sizes), random(*sizes)),
            14,
        ),
    ):
        yield Case(
            name,
            {OURS: ours, peer: theirs},
            [inputs],
            {"": moved * numel},
            lambda ours=ours, theirs=theirs, inputs=inputs: truth.equal(ours, theirs, *inputs),
            captured=True,
            slow=("loop over steps",),
        )


def linear_token_logprobs(machine: Machine) -> Iterator[Case]:
    """LM head and log-probabilities, forward and backward, in bfloat16."""
    N, H, V = machine.shapes.head
    hidden = torch.randn(N, H, device=machine.device).bfloat16().requires_grad_()
    weight = (torch.randn(V, H, device=machine.device) / H**0.5).bfloat16().requires_grad_()
    labels = torch.randint(V, (N,), device=machine.device)
    quarter = torch.arange(N, device=machine.device) % 64 < 16

    def products() -> None:
        """The three matrix products that every head needs, with the logits in memory."""
        with torch.no_grad():
            logits = hidden @ weight.T
            torch.mm(logits, weight)
            torch.mm(logits.T, hidden)

    def kept(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return segkernel.linear_token_logprobs(hidden, weight, labels, quarter)

    def step(function: Function | None) -> Function | None:
        return function and (lambda: function(hidden, weight, labels).sum().backward())

    def drop_gradients() -> None:
        hidden.grad = weight.grad = None

    implementations = {
        OURS: segkernel.linear_token_logprobs,
        KEPT: kept,
        **peers.heads(machine.device),
        "materialized logits": peers.materialized_logprobs,
    }
    yield Case(
        f"linear_token_logprobs, forward + backward, bf16 N={N}, H={H}, V={V}",
        {**{name: step(function) for name, function in implementations.items()}, BARE: products},
        check=lambda: truth.head(segkernel.linear_token_logprobs, hidden, weight, labels),
        before=drop_gradients,
        slow=(*implementations, BARE),
        caller_bytes=hidden.nbytes + weight.nbytes,
    )


def import_time(machine: Machine) -> Iterator[Case]:
    """Import of the NumPy front in a fresh interpreter, next to NumPy's own."""
    statements = ("import segkernel.numpy", "import numpy", "pass")
    yield Case(
        "import, fresh interpreter",
        {s: lambda s=s: subprocess.run([sys.executable, "-c", s], check=True) for s in statements},
    )


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
        gae,
        credit,
        linear_token_logprobs,
    )
}
CPU_GROUPS = {**GROUPS, import_time.__name__: import_time}
