"""Log-probabilities over a vocabulary that is split among processes, against one process with the whole vocabulary."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import segkernel
from tests.ops.vocab_parallel import (
    DTYPES,
    OPTIONS,
    PROCESSES,
    SHAPE,
    WIDTHS,
    head,
    head_results,
    inputs,
    my_shard,
    results,
)

SIZES = [pytest.param(size, marks=pytest.mark.slow) for size in WIDTHS]  # of groups of processes
# Outputs are rounded to float32, gradients to the dtype of the logits.
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 2e-6}
GRADIENT_TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 8e-3}


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Results of the processes, by the number of processes in the group."""
    folder = tmp_path_factory.mktemp("vocab-parallel")
    commands = [
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.ops.vocab_parallel",
            str(folder / "store"),
            str(rank),
            str(folder),
        ]
        for rank in range(PROCESSES)
    ]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return {size: [torch.load(folder / f"{size}.{rank}.pt") for rank in range(size)] for size in WIDTHS}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_processes_agree_with_one(by_rank: dict[int, Any], size: int, name: str, dtype: str) -> None:
    logits, labels, mask = inputs(DTYPES[dtype])
    expected = results(segkernel.token_logprobs, logits, labels, mask, **OPTIONS[name])
    for rank, every in enumerate(by_rank[size]):
        found = every[f"{name}, {dtype}"]
        for output in ("logprobs", "entropies"):
            torch.testing.assert_close(found[output], expected[output], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        tolerance = GRADIENT_TOLERANCE[dtype]
        shard = my_shard(expected["gradient"], size, rank)
        torch.testing.assert_close(found["gradient"], shard, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_all_processes_get_the_same_bits(by_rank: dict[int, Any], size: int) -> None:
    first, *others = by_rank[size]
    for other in others:
        for name, dtype in ((name, dtype) for name in OPTIONS for dtype in DTYPES):
            for output in ("logprobs", "entropies"):
                one, two = (every[f"{name}, {dtype}"][output] for every in (first, other))
                assert one.numpy().tobytes() == two.numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", SIZES)
def test_heads_of_processes_agree_with_one(by_rank: dict[int, Any], size: int, dtype: str) -> None:
    expected = head_results(*head(DTYPES[dtype]), temperature=0.7)
    tolerance = {"float64": 1e-12, "float32": 5e-6}[dtype]
    for rank, every in enumerate(by_rank[size]):
        for name, found in every[f"head, {dtype}"].items():
            whole = expected[name]
            wanted = whole.split(WIDTHS[size])[rank] if name in ("weight", "bias") else whole
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_heads_give_all_processes_the_same_bits(by_rank: dict[int, Any], size: int) -> None:
    first, *others = (every["head, bfloat16"] for every in by_rank[size])
    for other in others:
        for name in ("logprobs", "entropies", "hidden"):
            assert torch.equal(first[name], other[name])
        assert (other["hidden"][1, 1:3] == 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_masked_tokens_are_zero_and_their_nan_logits_do_not_spread(by_rank: dict[int, Any], size: int) -> None:
    for every in by_rank[size]:
        found = every["plain, float32"]
        for output in ("logprobs", "entropies", "gradient"):
            assert (found[output][1, 1:3] == 0).all()
            assert found[output].isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_one_exchange_of_four_float64_per_token(by_rank: dict[int, Any], size: int) -> None:
    assert [every["bytes"] for every in by_rank[size]] == [[math.prod(SHAPE) * 4 * 8]] * size
    # The head computes the 8 tokens that are neither masked nor without a label.
    assert [every["bytes of head"] for every in by_rank[size]] == [[8 * 4 * 8]] * size


@pytest.mark.parametrize("size", SIZES)
def test_given_first_column_replaces_the_exchange_of_widths(by_rank: dict[int, Any], size: int) -> None:
    for every in by_rank[size]:
        assert torch.equal(every["first given"], every["plain, float32"]["logprobs"])


@pytest.mark.parametrize("size", SIZES)
def test_label_in_no_shard_raises_in_all_processes(by_rank: dict[int, Any], size: int) -> None:
    messages = {every["label out of range"] for every in by_rank[size]}
    assert messages == {"labels: expected a label in one of the group's shards, got 37 at [0, 3]"}


@pytest.mark.parametrize("size", SIZES)
def test_inplace_backward_writes_the_gradient_into_the_logits(by_rank: dict[int, Any], size: int) -> None:
    logits, labels, mask = inputs(torch.float32)
    logits.requires_grad_()
    segkernel.token_logprobs(logits, labels, mask).sum().backward()
    assert logits.grad is not None
    for rank, every in enumerate(by_rank[size]):
        expected = my_shard(logits.grad, size, rank)
        torch.testing.assert_close(every["in place"]["storage"], expected, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(every["in place"]["gradient"], expected, rtol=2e-6, atol=2e-6)


def head_of_group(labels: Tensor, **options: Any) -> Any:
    group: Any = object()  # arguments are checked before it is used
    return segkernel.linear_token_logprobs(torch.zeros(1, 3), torch.zeros(2, 3), labels, group=group, **options)


def state(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_state_of_a_shard_literals() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    found = segkernel.logprob_state(logits, torch.tensor([5]), first=4, temperature=0.5)
    # z = 0 and log 9, relative to any reference m: 10 = s exp(m).
    maximum, total, weighted, label = found[0].tolist()
    assert total * math.exp(maximum) == pytest.approx(10)
    assert weighted * math.exp(maximum) == pytest.approx(9 * math.log(9) - 10 * maximum)
    assert label == pytest.approx(math.log(9))


def test_label_of_another_shard_is_nan_and_masked_rows_are_zero() -> None:
    logits = torch.full((3, 2), torch.nan)
    logits[0] = 0.0
    found = segkernel.logprob_state(logits, torch.tensor([1, 1, -100]), torch.tensor([1, 0, 1]), first=2)
    assert found[0, 3].isnan()
    assert found[1:].tolist() == [[0.0] * 4] * 2


def test_merge_literals() -> None:
    # Relative to 2: 3 = 1 exp(0) + 2 e exp(-1), and the label's logit is that of the shard that has it.
    merged = segkernel.merge_logprob_states(torch.stack([state(2, 1, 0, math.nan), state(1, 2 * math.e, 0, -5)]))
    torch.testing.assert_close(merged, state(2, 3, -2, -5))


def test_merge_with_shards_of_nothing_but_minus_infinity() -> None:
    empty = state(-math.inf, 0, 0, math.nan)
    known = state(3, 1, 0, 3)
    assert torch.equal(segkernel.merge_logprob_states(torch.stack([empty, known, empty])), known)
    merged = segkernel.merge_logprob_states(torch.stack([empty, state(-math.inf, 0, 0, -math.inf)]))
    logprobs, entropies = segkernel.finish_logprobs(merged)
    assert logprobs.isnan().all()
    assert entropies.isnan().all()


def test_finish_literals_in_the_given_dtype() -> None:
    # Two tokens of equal probability; a masked row; a label that no shard had.
    states = torch.cat([state(1, 2, 0, 1), state(0, 0, 0, 0), state(1, 2, 0, math.nan)])
    logprobs, entropies = segkernel.finish_logprobs(states, dtype=torch.float64)
    assert logprobs[:2].tolist() == pytest.approx([-math.log(2), 0.0])
    assert entropies[:2].tolist() == pytest.approx([math.log(2), 0.0])
    assert logprobs[2].isnan()
    assert entropies[2].isnan()
    assert segkernel.finish_logprobs(states)[0].dtype is torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segkernel.merge_logprob_states(torch.zeros(2, 4)), "states: expected a float64 tensor, got float32"),
        (lambda: segkernel.merge_logprob_states(state(0, 0, 0, 0)[0]), r"states: expected \[S, \.\.\., 4\], got"),
        (lambda: segkernel.finish_logprobs(state(0, 0, 0)), r"state: expected \[\.\.\., 4\], got"),
        (lambda: segkernel.logprob_state(torch.zeros(1, 2), torch.tensor([0]), first=-1), "first: expected"),
        (lambda: segkernel.vocab_parallel_token_logprobs(torch.zeros(1, 2), torch.tensor([0])), "group: expected"),
        (lambda: head_of_group(torch.tensor([[0, 1]])), "labels: expected one per token with group, got int64"),
        (lambda: head_of_group(torch.tensor([0]), outputs=("entropy",)), "outputs: expected None with group"),
        (lambda: head_of_group(torch.tensor([0]), first=-1), "first: expected"),
    ],
)
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        call()
