"""The table "instead of / write" of docs/integrations.md, row by row, on the packages themselves.

`make peers` installs them into build/peers. Each package has a process of its own (call_peer.py).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segkernel
from tests.integrations.peers import folder_of

pytestmark = pytest.mark.packages

B, T, V = 3, 7, 50


@pytest.fixture(scope="module")
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Calls a function of the package in the test's parameter: `peer(module, function, *args, **kwargs)`."""
    folder = folder_of(request.param)
    scratch = tmp_path_factory.mktemp("peer")
    arguments, result = scratch / "arguments.pt", scratch / "result.pt"
    command = [sys.executable, Path(__file__).with_name("call_peer.py"), folder, request.param]
    with (
        (scratch / "errors").open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=scratch
        ) as process,
    ):

        def call(module: str, function: str, *args: Any, **kwargs: Any) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            torch.save((args, kwargs), arguments)
            print(module, function, arguments, result, file=process.stdin, flush=True)
            while line := process.stdout.readline():
                if line == "done\n":
                    return torch.load(result, weights_only=True)
            pytest.fail((scratch / "errors").read_text())

        yield call


@pytest.fixture
def logits() -> Tensor:
    return 4 * torch.randn(B, T, V)


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(V, (B, T))


# [B, T], a prompt and padding on the right: the valid tokens of a row are contiguous.
CONTIGUOUS = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]], dtype=torch.bool)
# The same with tool output in the middle of a response.
HOLES = torch.tensor([[0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0, 1]], dtype=torch.bool)


def assert_near_at(mask: Tensor, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual[mask], expected[mask], rtol=0, atol=5e-6)  # sums of float32, of logits up to 16
    assert not actual[~mask].any()


@pytest.mark.parametrize("peer", ["trl"], indirect=True)
def test_trl_selective_log_softmax_and_entropy(peer: Any, logits: Tensor, labels: Tensor) -> None:
    theirs = peer(
        "trl.trainer.utils",
        "selective_log_softmax_and_entropy",
        logits,
        labels,
        temperature=0.7,
        row_mask=HOLES,
    )
    ours = segkernel.token_logprobs(logits, labels, HOLES, temperature=0.7, entropy=True)
    for actual, expected in zip(ours, theirs, strict=True):
        assert_near_at(HOLES, actual, expected)


@pytest.mark.parametrize("peer", ["verl"], indirect=True)
def test_verl_logprobs_and_entropy_from_logits(peer: Any, logits: Tensor, labels: Tensor) -> None:
    logprobs, entropy = segkernel.token_logprobs(logits, labels, HOLES, entropy=True)
    assert_near_at(HOLES, logprobs, peer("verl.utils.torch_functional", "logprobs_from_logits", logits, labels))
    assert_near_at(HOLES, entropy, peer("verl.utils.torch_functional", "entropy_from_logits", logits))


@pytest.mark.parametrize("peer", ["openrlhf"], indirect=True)
def test_openrlhf_log_probs_from_logits(peer: Any, logits: Tensor, labels: Tensor) -> None:
    before = logits.clone()
    ours = segkernel.token_logprobs(logits, labels, HOLES, temperature=0.7)
    assert torch.equal(logits, before)
    assert_near_at(HOLES, ours, peer("openrlhf.models.utils", "log_probs_from_logits", logits, labels, 0.7))


@pytest.mark.parametrize("mask", [CONTIGUOUS, HOLES], ids=["contiguous", "holes"])
@pytest.mark.parametrize("peer", ["verl"], indirect=True)
def test_verl_compute_gae_advantage_return(peer: Any, mask: Tensor) -> None:
    """verl's returns are the advantages plus the values; its advantages are whitened afterwards."""
    rewards, values = torch.randn(B, T), torch.randn(B, T)
    advantages, returns = segkernel.gae(rewards, values, mask, gamma=0.9, lam=0.8)
    whitened, their_returns = peer(
        "verl.trainer.ppo.core_algos",
        "compute_gae_advantage_return",
        rewards,
        values,
        mask.float(),
        torch.tensor(0.9),
        torch.tensor(0.8),
    )
    assert torch.equal(returns[mask].view(torch.int32), their_returns[mask].view(torch.int32))
    kept = advantages[mask]
    ours_whitened = (kept - kept.mean()) * torch.rsqrt(kept.var() + 1e-8)
    torch.testing.assert_close(ours_whitened, whitened[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("peer", ["verl"], indirect=True)
def test_verl_compute_grpo_outcome_advantage(peer: Any, scale: bool) -> None:
    """Two samples of one prompt, and between them the only one of another, which keeps its score in verl."""
    rewards, index = torch.randn(B, T), [4, 9, 4]
    scores = rewards.sum(1, keepdim=True)
    function = ("verl.trainer.ppo.core_algos", "compute_grpo_outcome_advantage")
    theirs, _ = peer(*function, rewards, HOLES.float(), index, norm_adv_by_std_in_grpo=scale)
    normalized = segkernel.group_normalize(scores, torch.ones(B, dtype=torch.int32), torch.tensor(index), scale=scale)
    ours = normalized * HOLES
    torch.testing.assert_close(ours[[0, 2]], theirs[[0, 2]], rtol=0, atol=2e-6)
    assert not ours[1].any()
    torch.testing.assert_close(theirs[1], scores[1] * HOLES[1], rtol=1e-5, atol=1e-5)


EXPERIENCE_MAKER = ("openrlhf.trainer.ppo_utils.experience_maker", "RemoteExperienceMaker.get_advantages_and_returns")


@pytest.mark.parametrize(("gamma", "tolerance"), [(1.0, 0.0), (0.9, 2e-6)])
@pytest.mark.parametrize("mask", [CONTIGUOUS, HOLES], ids=["contiguous", "holes"])
@pytest.mark.parametrize("peer", ["openrlhf"], indirect=True)
def test_openrlhf_get_advantages_and_returns(peer: Any, mask: Tensor, gamma: float, tolerance: float) -> None:
    """Bit for bit at gamma = 1; otherwise OpenRLHF rounds gamma * lam once, and segkernel rounds both factors."""
    rewards, values = torch.randn(B, T), torch.randn(B, T)
    ours = segkernel.gae(rewards, values, mask, gamma=gamma, lam=0.95, holes="decay")
    theirs = peer(*EXPERIENCE_MAKER, None, values, rewards, mask.float(), gamma, 0.95)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual[mask], expected[mask], rtol=0, atol=tolerance)


@pytest.mark.parametrize("peer", ["openrlhf"], indirect=True)
def test_openrlhf_gae_decays_through_holes(peer: Any) -> None:
    """Two response tokens around one tool token, gamma = lam = 1/2, rewards 0 and 1, values 0."""
    rewards, values = torch.tensor([[0.0, 9.0, 1.0]]), torch.zeros(1, 3)
    mask = torch.tensor([[True, False, True]])
    skipped, _ = segkernel.gae(rewards, values, mask, gamma=0.5, lam=0.5)
    assert skipped.tolist() == [[0.25, 0.0, 1.0]]  # one step of gamma * lam
    decayed, _ = segkernel.gae(rewards, values, mask, gamma=0.5, lam=0.5, holes="decay")
    assert decayed.tolist() == [[0.0625, 0.0, 1.0]]  # two steps, one of them through the tool token
    theirs, _ = peer(*EXPERIENCE_MAKER, None, values, rewards, mask.float(), 0.5, 0.5)
    assert theirs[mask].tolist() == decayed[mask].tolist()


@pytest.mark.parametrize("peer", ["openrlhf"], indirect=True)
def test_openrlhf_get_cumulative_returns(peer: Any) -> None:
    """Without holes `discounted_sum`; through holes OpenRLHF's returns decay, as `gae` with values of 0."""
    rewards = torch.randn(B, T)
    function = (EXPERIENCE_MAKER[0], "RemoteExperienceMaker.get_cumulative_returns")
    for mask in (CONTIGUOUS, HOLES):
        theirs = peer(*function, None, rewards, mask.float(), 0.9)
        if mask is CONTIGUOUS:
            assert_near_at(mask, segkernel.discounted_sum(rewards, mask, discount=0.9), theirs)
        decayed, _ = segkernel.gae(rewards, torch.zeros(B, T), mask, gamma=0.9, lam=1.0, holes="decay")
        assert_near_at(mask, decayed, theirs)
