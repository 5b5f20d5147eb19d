"""Advantages and a policy loss per segment, under names in verl's registries.

| name | in verl's configuration |
| --- | --- |
| `segkernel_turn_grpo` | `algorithm.adv_estimator` |
| `segkernel_asr_grpo` | `algorithm.adv_estimator` |
| `segkernel_segment_ratio` | `actor_rollout_ref.actor.policy_loss.loss_mode` |

Options of an estimator are read from `algorithm.segkernel`, which verl's configuration does not have: write
`+algorithm.segkernel.delta=0.5` on the command line.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.advantages import agreeing_advantages, segment_ratios, turn_advantages
from segkernel.integrations.estimators import estimator_options


def turn_grpo(
    token_level_rewards: Tensor, response_mask: Tensor, index: Any, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """GRPO with an advantage per turn.

    Turns are the runs of ones in `response_mask`, which tool output separates. A turn's return is the sum of its own
    token rewards and of the later turns', discounted by `algorithm.gamma` per turn. Its advantage is the return
    relative to those of all turns of the group, so that the baseline is the same for every turn. With one reward at
    the end and `gamma` 1, all turns of a response get the same advantage.

    Args:
        token_level_rewards: `[B, T]`; a reward anywhere in a turn belongs to it.
        response_mask: `[B, T]`.
        index: `[B]`, equal for responses to one prompt.
        config: verl's `algorithm` section: `gamma`, `norm_adv_by_std_in_grpo`, and `segkernel.per`, `group` (default)
            or `segment`, which compares only turns of the same number.

    Returns:
        Advantages and returns, `[B, T]`, equal: there is no critic.
    """
    options = _options("segkernel_turn_grpo", config)
    per_token = turn_advantages(
        token_level_rewards,
        response_mask,
        index,
        gamma=float(_get(config, "gamma", 1.0)),
        scale=_scale(config),
        **options,
    )
    return per_token, per_token


def asr_grpo(
    token_level_rewards: Tensor, response_mask: Tensor, index: Any, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """GRPO on the segments that agree with their response: Adaptive Segment-level Reward (arXiv 2411.00809).

    A response's advantage is that of GRPO, from the sum of its token rewards. Its tokens are split into segments where
    their rewards change state, and only segments whose sign is that of the advantage keep it; the others get 0.

    Args:
        token_level_rewards: `[B, T]`, a reward for every token, from a reward manager.
        response_mask: `[B, T]`.
        index: `[B]`, equal for responses to one prompt.
        config: verl's `algorithm` section: `norm_adv_by_std_in_grpo`, and in `segkernel` the options of
            `segkernel.segment`: `delta`, `pivot_threshold` (at least one of them), `baseline`, `hold`, `keep_neutral`.

    Returns:
        Advantages and returns, `[B, T]`, equal: there is no critic.

    Raises:
        ValueError: neither `delta` nor `pivot_threshold`, or an unknown option.
    """
    options = _options("segkernel_asr_grpo", config)
    per_token = agreeing_advantages(token_level_rewards, response_mask, index, scale=_scale(config), **options)
    return per_token, per_token


def segment_ratio(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Clipped policy loss with one importance ratio per segment: GSPO (arXiv 2507.18071) below the sequence level.

    Segments are the runs of response tokens with an advantage other than 0: turns, or the segments that
    `segkernel_asr_grpo` keeps. A response of one segment has the loss of verl's `gspo`.

    Args:
        old_log_prob, log_prob, advantages, response_mask: `[B, T]`.
        loss_agg_mode: as in verl's `agg_loss`.
        config: verl's actor configuration: `clip_ratio`, `clip_ratio_low`, `clip_ratio_high`.
        rollout_is_weights: `[B, T]`, factors of the token losses.

    Returns:
        Loss, and metrics.
    """
    algorithms: Any = importlib.import_module("verl.trainer.ppo.core_algos")
    functional: Any = importlib.import_module("verl.utils.torch_functional")
    low, high = (
        config.clip_ratio if bound is None else bound for bound in (config.clip_ratio_low, config.clip_ratio_high)
    )
    ratios = segment_ratios(log_prob, old_log_prob, response_mask.bool() & (advantages != 0))
    losses = -advantages * ratios
    clipped = -advantages * ratios.clamp(1 - low, 1 + high)
    per_token = torch.maximum(losses, clipped)
    if rollout_is_weights is not None:
        per_token = per_token * rollout_is_weights
    loss = algorithms.agg_loss(
        loss_mat=per_token, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info
    )
    metrics = {
        "actor/pg_clipfrac": functional.masked_mean((clipped > losses).float(), response_mask),
        "actor/ppo_kl": functional.masked_mean(old_log_prob - log_prob, response_mask),
    }
    return loss, {name: value.detach().item() for name, value in metrics.items()} | {"actor/pg_clipfrac_lower": 0.0}


ESTIMATORS = {"segkernel_turn_grpo": turn_grpo, "segkernel_asr_grpo": asr_grpo}
LOSSES = {"segkernel_segment_ratio": segment_ratio}


def register() -> None:
    """Add the estimators and losses to verl's registries."""
    algorithms: Any = importlib.import_module("verl.trainer.ppo.core_algos")
    for name, estimator in ESTIMATORS.items():
        algorithms.register_adv_est(name)(estimator)
    for name, loss in LOSSES.items():
        algorithms.register_policy_loss(name)(loss)


def _get(config: Any, name: str, default: Any) -> Any:
    return default if config is None else config.get(name, default)


def _scale(config: Any) -> bool:
    return bool(_get(config, "norm_adv_by_std_in_grpo", True))


def _options(name: str, config: Any) -> dict[str, Any]:
    given = _get(config, "segkernel", None)
    return estimator_options(name, given, "algorithm.segkernel", "+algorithm.segkernel.delta=0.5")
