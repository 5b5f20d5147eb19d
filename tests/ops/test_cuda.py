"""CUDA only: graphs, synchronization, Inductor, streams and devices.

`CALLS` has a call of every operator. `test_cuda_operators_match_the_reference_on_ragged_rows` makes each once on the
device under test, which is also the run for compute-sanitizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import segkernel
from segkernel import reference
from tests.cuda_emulation import graph as emulation
from tests.helpers import BACKEND, assert_identical, assert_near, leaves, random_batch, random_scores

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
V = 1031  # prime: no row of logits is aligned like the one before

Inputs = dict[str, Tensor]


def make_inputs(device: str, seed: int = 0, V: int = V) -> Inputs:
    """Inputs of `CALLS`, generated on the CPU so that they are the same for every device."""
    torch.manual_seed(seed)
    with torch.device("cpu"):
        batch = random_batch(65)
        B, T = batch.mask.shape
        labels = torch.randint(V, (B, 9))
        labels[0, 3] = -100
        inputs = {
            "rewards": random_scores(B, T),
            "long": random_scores(2, 3000),
            "values": random_scores(B, T),
            "mask": batch.mask,
            "counts": torch.arange(B, dtype=torch.int32) * 8,
            "packed": batch.pack(random_scores(B, T)),
            "cu_seqlens": batch.cu_seqlens,
            "threshold": torch.linspace(0.0, 2.0, B),
            "logits": (2 * torch.randn(B, 9, V)).bfloat16(),
            "other_logits": (2 * torch.randn(B, 9, V)).bfloat16(),
            "labels": labels,
            "kept": torch.arange(9) % 3 < torch.arange(B)[:, None] % 4,
            "ids": torch.stack([labels, V - 1 - labels.clamp(0)], -1),
            "top": torch.rand(B, 9, 2) - 3,
            "candidates": torch.stack([labels, torch.full_like(labels, -100), torch.zeros_like(labels)], -1),
            "weights": torch.rand(B, 9),
            "warm": torch.linspace(0.5, 2.0, B)[:, None].clone(),
            "hidden": torch.randn(40, 24),
            "weight": torch.randn(V, 24) / 5,
            "targets": torch.randint(V, (40,)),
        }
    for name in ("logits", "other_logits"):
        inputs[name][~inputs["kept"]] = float("nan")  # never read
    return {name: value.to(device) for name, value in inputs.items()}


def segments(ops: Any, x: Inputs) -> Any:
    return ops.segment(x["rewards"], x["mask"], pivot_threshold=x["threshold"], delta=0.5, sequence_sign=1.0)


def reduced_and_back(ops: Any, x: Inputs) -> Any:
    ids = segments(ops, x).ids
    reduced = ops.segment_reduce(x["values"], ids, ids.shape[1], reduce="mean")
    return reduced, ops.segment_broadcast(reduced, ids, how="split")


def packed(ops: Any, x: Inputs) -> Any:
    rows = {"cu_seqlens": x["cu_seqlens"]}
    return (
        ops.hysteresis(x["packed"], low=-0.5, high=x["threshold"], **rows),
        ops.segment(x["packed"], pivot_threshold=1.0, reduce="sum", **rows),
        ops.gae(x["packed"], x["packed"], gamma=0.99, **rows),
    )


def gradient(ops: Any, x: Inputs) -> Any:
    logits = x["logits"].detach().requires_grad_()
    logprobs, entropies = ops.token_logprobs(logits, x["labels"], x["kept"], entropy=True, softcap=5.0)
    return torch.autograd.grad((logprobs, entropies), logits, (x["weights"], x["weights"]))


def divergence_gradient(ops: Any, x: Inputs) -> Any:
    logits = x["logits"].detach().requires_grad_()
    out = ops.token_divergences(logits, x["other_logits"], x["kept"], x["labels"], kind="js", beta=0.25)
    outs = (out.divergence, out.entropy, out.logprobs)
    return torch.autograd.grad(outs, logits, (x["weights"],) * 3)


def topk_gradient(ops: Any, x: Inputs) -> Any:
    logits = x["logits"].detach().requires_grad_()
    divergences = ops.topk_divergence(logits, x["ids"], x["top"], x["kept"])
    return torch.autograd.grad(divergences, logits, x["weights"])


def head(ops: Any, x: Inputs) -> Any:
    hidden, weight = x["hidden"].detach().requires_grad_(), x["weight"].detach().requires_grad_()
    logprobs = ops.linear_token_logprobs(hidden, weight, x["targets"])
    return (logprobs.detach(), *torch.autograd.grad(logprobs.sum(), (hidden, weight)))


EXACT: dict[str, Callable[[Any, Inputs], Any]] = {
    "detect_pivots": lambda ops, x: ops.detect_pivots(x["rewards"], x["mask"], threshold=x["threshold"]),
    "hysteresis": lambda ops, x: ops.hysteresis(x["rewards"], x["mask"], low=-0.5, high=x["threshold"]),
    "segment_by_entropy": lambda ops, x: ops.segment_by_entropy(x["values"], x["mask"], threshold=0.5, min_length=3),
    "segment_by_mask": lambda ops, x: ops.segment_by_mask(x["mask"]),
    "select_tokens": lambda ops, x: ops.select_tokens(x["values"], x["mask"], fraction=x["threshold"] / 2),
    "select_tokens, batch": lambda ops, x: ops.select_tokens(x["values"], x["mask"], count=20, scope="batch"),
}
NEAR: dict[str, Callable[[Any, Inputs], Any]] = {
    "segment": segments,
    "long_rows": lambda ops, x: ops.segment(x["long"], delta=0.5, reduce="max"),
    "packed": packed,
    "gae": lambda ops, x: ops.gae(x["rewards"], x["values"], x["mask"], gamma=0.99),
    "gae, holes and value_lam": lambda ops, x: ops.gae(
        x["rewards"], x["values"], x["mask"], gamma=0.99, lam=x["threshold"] / 2, value_lam=1.0, holes="decay"
    ),
    "discounted_sum": lambda ops, x: ops.discounted_sum(x["rewards"], x["mask"], discount=x["threshold"] / 2),
    "redistribute": lambda ops, x: ops.redistribute(x["rewards"], x["mask"], sequence_rewards=x["threshold"], mix=0.5),
    "group_normalize": lambda ops, x: ops.group_normalize(x["values"], x["counts"], x["counts"] % 3),
    "importance_weights": lambda ops, x: ops.importance_weights(
        x["rewards"], x["values"], x["mask"], level="sequence", high=x["threshold"] + 0.1
    ),
    "segment_reduce, segment_broadcast": reduced_and_back,
    "token_logprobs": lambda ops, x: ops.token_logprobs(x["logits"], x["labels"], x["kept"], entropy=True),
    "token_logprobs, outputs": lambda ops, x: ops.token_logprobs(
        x["logits"], x["labels"], x["kept"], outputs=("sum_squares", "mean_logit", "is_argmax"), temperature=x["warm"]
    ),
    "token_logprobs, several labels": lambda ops, x: ops.token_logprobs(
        x["logits"], x["candidates"], x["kept"], entropy=True
    ),
    "token_logprobs, gradient": gradient,
    "token_divergences": lambda ops, x: ops.token_divergences(x["logits"], x["other_logits"], x["kept"]),
    "token_divergences, gradient": divergence_gradient,
    "token_divergences, temperatures": lambda ops, x: ops.token_divergences(
        x["logits"], x["other_logits"], x["kept"], kind="tv", temperature=x["warm"]
    ),
    "topk_divergence, gradient": topk_gradient,
    "sequence_logprobs": lambda ops, x: ops.sequence_logprobs(x["logits"], x["labels"], x["kept"], reduce="mean"),
    "segment_logprobs": lambda ops, x: ops.segment_logprobs(
        x["logits"].nan_to_num(), x["labels"], x["kept"].int() - 1, 1
    ),
    "linear_token_logprobs": head,
}
CALLS = EXACT | NEAR
# Calls that also use torch's operators.
WITH_TORCH = (
    "token_divergences, temperatures",
    "topk_divergence, gradient",
    "sequence_logprobs",
    "segment_logprobs",
    "linear_token_logprobs",
    "importance_weights",
)
# Functions of the calls that take a gradient, and the input that it belongs to.
DIFFERENTIATED: dict[str, tuple[Callable[[Inputs], Tensor], str]] = {
    "token_logprobs, gradient": (
        lambda x: segkernel.token_logprobs(x["logits"], x["labels"], x["kept"], softcap=5.0),
        "logits",
    ),
    "token_divergences, gradient": (
        lambda x: segkernel.token_divergences(x["logits"], x["other_logits"], x["kept"]).divergence,
        "logits",
    ),
    "topk_divergence, gradient": (
        lambda x: segkernel.topk_divergence(x["logits"], x["ids"], x["top"], x["kept"]),
        "logits",
    ),
    "linear_token_logprobs": (
        lambda x: segkernel.linear_token_logprobs(x["hidden"], x["weight"], x["targets"]),
        "hidden",
    ),
}
every_call = pytest.mark.parametrize("name", CALLS)


def to_cpu(output: Any) -> tuple[Tensor, ...]:
    return tuple(leaf.cpu() for leaf in leaves(output))


@every_call
def test_cuda_operators_match_the_reference_on_ragged_rows(name: str) -> None:
    actual = to_cpu(CALLS[name](segkernel, make_inputs(torch.get_default_device().type)))
    with torch.device("cpu"):
        expected = to_cpu(CALLS[name](reference, make_inputs("cpu")))
    if name in EXACT:
        assert_identical(actual, expected)
    elif name.endswith(", gradient"):
        assert_near(actual, expected, rtol=2e-2, atol=1e-5)  # rounded to bfloat16
    else:
        assert_near(actual, expected, rtol=1e-4, atol=1e-5)


@needs_gpu
@every_call
def test_cuda_graph_replays_on_other_inputs(name: str) -> None:
    call, inputs = CALLS[name], make_inputs("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(segkernel, inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(segkernel, inputs)
    replayed_on_other_inputs(call, inputs, captured, graph.replay)


@pytest.mark.skipif(BACKEND != "emulated cuda", reason="needs the emulated kernels")
@pytest.mark.parametrize("name", [name for name in CALLS if name not in WITH_TORCH])
def test_emulated_graph_replays_on_other_inputs(name: str) -> None:
    call, inputs = CALLS[name], make_inputs("cpu")
    with emulation.recorded() as replay:
        captured = call(segkernel, inputs)
    replayed_on_other_inputs(call, inputs, captured, replay)


def replayed_on_other_inputs(
    call: Callable[[Any, Inputs], Any], inputs: Inputs, captured: Any, replay: Callable[[], object]
) -> None:
    replay()  # its results must not affect the next replay
    for kind, value in make_inputs(torch.get_default_device().type, seed=1).items():
        inputs[kind].copy_(value)
    for leaf in leaves(captured):
        leaf.fill_(1)
    replay()
    assert_identical(captured, call(segkernel, inputs))


@needs_gpu
@every_call
def test_cuda_operators_do_not_synchronize(name: str) -> None:
    inputs = make_inputs("cuda")
    expected = CALLS[name](segkernel, inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = CALLS[name](segkernel, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_identical(actual, expected)


@needs_gpu
@pytest.mark.compiles
@every_call
def test_inductor_compiles_one_graph(name: str) -> None:
    torch.compiler.reset()
    inputs = make_inputs("cuda")
    if name in DIFFERENTIATED:  # autograd.grad stays outside
        function, argument = DIFFERENTIATED[name]
        differentiated = inputs[argument].requires_grad_()
        grads = [
            torch.autograd.grad(run(inputs).sum(), differentiated)
            for run in (torch.compile(function, fullgraph=True), function)
        ]
        assert_near(*grads)
        return
    compiled = torch.compile(lambda x: CALLS[name](segkernel, x), fullgraph=True)
    assert_near(compiled(inputs), CALLS[name](segkernel, inputs))


@needs_gpu
def test_kernels_run_on_the_current_stream() -> None:
    """Inputs that the current stream has yet to write are read after that, by the order of the stream."""
    rewards, late = torch.zeros(64, 4096, device="cuda"), torch.randn(64, 4096, device="cuda")
    expected = segkernel.hysteresis(late, low=-0.5, high=0.5)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        rewards.copy_(late)
        states = segkernel.hysteresis(rewards, low=-0.5, high=0.5)
    stream.synchronize()
    assert_identical(states, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_on_the_device_of_their_tensors() -> None:
    rewards = torch.randn(4, 100, device="cuda:0")
    expected = segkernel.hysteresis(rewards, low=-0.5, high=0.5)
    other = segkernel.hysteresis(rewards.to("cuda:1"), low=-0.5, high=0.5)
    assert other.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert_identical(other.cpu(), expected.cpu())
    mask = torch.ones(4, 100, dtype=torch.bool, device="cuda:1")
    with pytest.raises(ValueError, match="mask: expected on cuda:0"):
        segkernel.hysteresis(rewards, mask, low=-0.5, high=0.5)
