"""Functions for SkyRL and PRIME-RL, with the arguments that these frameworks pass."""

from __future__ import annotations

import math
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from segkernel.integrations import prime_rl, skyrl

MASK = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]])


def skyrl_arguments(rewards: list[list[float]]) -> dict[str, Any]:
    """Keyword arguments of SkyRL's `compute_advantages_and_returns` for its estimators."""
    return {
        "token_level_rewards": torch.tensor(rewards),
        "response_mask": MASK,
        "index": ["x", "x"],
        "values": None,
        "grpo_norm_by_std": False,
        "gamma": 1.0,
        "lambd": 1.0,
        "config": SimpleNamespace(),
    }


def test_skyrl_turn_grpo_literals() -> None:
    """Returns of the turns: 4, 3 and 4, 2; their mean is 3.25."""
    advantages, returns = skyrl.turn_grpo(**skyrl_arguments([[0.0, 1.0, 9.0, 3.0], [2.0, 9.0, 0.0, 2.0]]))
    assert advantages.tolist() == [[0.75, 0.75, 0.0, -0.25], [0.75, 0.0, -1.25, -1.25]]
    assert returns is advantages


def test_skyrl_asr_grpo_literals() -> None:
    arguments = skyrl_arguments([[2.0, 2.0, 9.0, -2.0], [1.0, 9.0, -2.0, 1.0]])
    advantages, _ = partial(skyrl.asr_grpo, delta=0.5)(**arguments)
    assert advantages.tolist() == [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    with pytest.raises(ValueError, match=r"^delta: expected it or pivot_threshold, got neither"):
        skyrl.asr_grpo(**arguments)


def test_prime_rl_segment_ratio_loss_literals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios e^0.3 of the first turn, and e^-0.4 of the second, which is clipped to 0.8 for a negative advantage."""
    module = ModuleType("prime_rl.trainer.rl.loss")
    module.__dict__["LossOutputs"] = lambda loss, metrics: (loss, metrics)
    monkeypatch.setitem(sys.modules, "prime_rl.trainer.rl.loss", module)
    for name in ("prime_rl", "prime_rl.trainer", "prime_rl.trainer.rl"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    logprobs = torch.tensor([0.2, 0.4, 5.0, -0.4, 3.0], requires_grad=True)
    inputs = SimpleNamespace(
        trainer_logprobs=logprobs,
        inference_logprobs=torch.zeros(5),
        advantages=torch.tensor([1.0, 1.0, 1.0, -2.0, 0.0]),
        loss_mask=torch.tensor([True, True, False, True, True]),
        loss_weights=torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0]),
    )
    loss, metrics = prime_rl.segment_ratio_loss(inputs, clip_low=0.2, clip_high=9.0)
    assert loss.item() == pytest.approx(-1.5 * math.exp(0.3) + 2 * 0.8, rel=1e-6)
    assert metrics["is_clipped"].item() == pytest.approx(1 / 3)
    (grad,) = torch.autograd.grad(loss, logprobs)
    assert grad.tolist() == pytest.approx([-math.exp(0.3), -0.5 * math.exp(0.3), 0.0, 0.0, 0.0], rel=1e-6)
