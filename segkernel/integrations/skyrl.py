"""Advantage estimators for SkyRL, to be registered in the training script.

    from functools import partial

    from segkernel.integrations import skyrl
    from skyrl.backends.skyrl_train.utils.ppo_utils import register_advantage_estimator

    register_advantage_estimator("segkernel_turn_grpo")(skyrl.turn_grpo)
    register_advantage_estimator("segkernel_asr_grpo")(partial(skyrl.asr_grpo, delta=0.5))

and on the command line `trainer.algorithm.advantage_estimator=segkernel_turn_grpo`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segkernel.integrations.advantages import agreeing_advantages, turn_advantages


def turn_grpo(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any,
    gamma: float = 1.0,
    grpo_norm_by_std: bool = True,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """GRPO with an advantage per turn (`turn_advantages`); returns advantages and returns `[B, T]`, which are equal."""
    advantages = turn_advantages(
        token_level_rewards, response_mask, index, gamma=float(gamma), scale=bool(grpo_norm_by_std)
    )
    return advantages, advantages


def asr_grpo(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any,
    grpo_norm_by_std: bool = True,
    *,
    delta: float | None = None,
    pivot_threshold: float | None = None,
    baseline: float = 0.0,
    hold: bool = True,
    keep_neutral: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """GRPO on the segments that agree with their response (`agreeing_advantages`); needs a reward for every token.

    Raises:
        ValueError: neither `delta` nor `pivot_threshold`.
    """
    if delta is None and pivot_threshold is None:
        raise ValueError("delta: expected it or pivot_threshold, got neither: register partial(asr_grpo, delta=...)")
    advantages = agreeing_advantages(
        token_level_rewards,
        response_mask,
        index,
        scale=bool(grpo_norm_by_std),
        delta=delta,
        pivot_threshold=pivot_threshold,
        baseline=baseline,
        hold=hold,
        keep_neutral=keep_neutral,
    )
    return advantages, advantages
