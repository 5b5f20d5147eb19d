"""Advantages per turn or segment in OpenRLHF, on request: `segkernel run --advantages`.

OpenRLHF has no registry of estimators, so its experience maker is replaced by one that computes OpenRLHF's advantages,
with their penalties and metrics, and then puts segkernel's in their place.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.advantages import agreeing_advantages, turn_advantages, with_remainder
from segkernel.integrations.estimators import OPENRLHF_SCALES, RequestedAdvantages, requested_advantages
from segkernel.ops.segment_broadcast import segment_broadcast
from segkernel.ops.segment_by_mask import segment_by_mask

EXPERIENCE = "openrlhf.trainer.ppo_utils.experience_maker"


@torch.no_grad()
def compute_advantages_and_returns(self: Any, experiences: list[Any]) -> list[Any]:
    """Experiences with the requested advantages; returns are equal to them.

    Group, penalties, KL in the reward and clipping are OpenRLHF's.

    Raises:
        ValueError: an estimator without groups, or token rewards that do not fit the experience.
    """
    request = requested_advantages()
    assert request is not None  # as the target is swapped on request only
    if self.advantage_estimator not in OPENRLHF_SCALES:
        raise ValueError(
            f"--algo.advantage.estimator: expected group_norm or dr_grpo with {request.name}, got "
            f"{self.advantage_estimator}"
        )
    dense = [_token_rewards(self, experience, request) for experience in experiences]
    penalties = [experience.kl for experience in experiences]  # OpenRLHF drops them
    advantages = _advantages(self, _with_scores(self, experiences), dense, penalties, request)
    for experience, values in zip(experiences, advantages, strict=True):
        experience.advantages, experience.returns = values, values.clone()
        kept = (values != 0).sum(1) / experience.action_mask.sum(1).clamp(min=1)
        experience.info["advantage_share"] = kept.float()  # a metric: the share of tokens with an advantage
    return experiences


def _with_scores(self: Any, experiences: list[Any]) -> list[Any]:
    """Experiences with OpenRLHF's own advantages, metrics, and rewards after length penalties."""
    original: Any = importlib.import_module(EXPERIENCE).RemoteExperienceMaker.compute_advantages_and_returns.__wrapped__
    options = getattr(self.args, "algo", self.args)
    options = getattr(options, "advantage", options)
    gamma, options.gamma = options.gamma, 1.0  # otherwise OpenRLHF sets it to 1 for good
    try:
        return original(self, experiences)  # type: ignore[no-any-return]
    finally:
        options.gamma = gamma


def _advantages(
    self: Any,
    experiences: Sequence[Any],
    dense: Sequence[Tensor],
    penalties: Sequence[Tensor],
    request: RequestedAdvantages,
) -> list[Tensor]:
    """Advantages `[B, T]` of every experience, whose groups may be in several of them."""
    args = self.args
    mask = _padded([experience.action_mask for experience in experiences])
    kl = max(self.kl_ctl.value, 0.0) * _padded(penalties).masked_fill(mask == 0, 0.0)
    rewards = _padded(dense)
    scores = torch.cat([experience.rewards for experience in experiences]).float()
    samples = getattr(args, "rollout", args).n_samples_per_prompt
    index = [number // samples for experience in experiences for number in experience.index]
    scale = OPENRLHF_SCALES[self.advantage_estimator]
    if request.name == "segkernel_asr_grpo":
        advantages = agreeing_advantages(
            rewards - kl, mask, index, scores=scores - kl.sum(1), scale=scale, **request.options
        )
    else:
        options = getattr(args, "algo", args)
        gamma = float(getattr(options, "advantage", options).gamma)
        rewards = with_remainder(rewards, mask, scores) - kl
        advantages = turn_advantages(rewards, mask, index, gamma=gamma, scale=scale, **request.options)
    limits = args.reward.clip_range if hasattr(args, "reward") else args.reward_clip_range
    if limits:
        advantages = advantages.clamp(*limits)
    rows = advantages.split([len(experience.action_mask) for experience in experiences])
    return [
        row[:, : experience.action_mask.shape[1]].clone() for row, experience in zip(rows, experiences, strict=True)
    ]


def _token_rewards(self: Any, experience: Any, request: RequestedAdvantages) -> Tensor:
    """Token rewards `[B, T]`: from the function of the request, or from `turn_rewards` in the metrics, or zeros."""
    mask = experience.action_mask
    turns = experience.info.pop("turn_rewards", None)  # OpenRLHF cannot log a vector
    if request.rewards is None:
        return torch.zeros(mask.shape) if turns is None else _at_turn_ends(torch.as_tensor(turns), mask)
    module, _, name = request.rewards.rpartition(".")
    rewards = getattr(importlib.import_module(module), name)(experience, self.tokenizer)
    if not isinstance(rewards, Tensor) or rewards.shape != mask.shape:
        got = list(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
        raise ValueError(f"{request.rewards}: expected a tensor {list(mask.shape)}, as the action mask, got {got}")
    return rewards.float().cpu()


def _at_turn_ends(turns: Tensor, mask: Tensor) -> Tensor:
    """Rewards of turns, `[B, S]`, at the last token of each: `[B, T]`.

    A response that was cut, or whose environment added nothing between two turns, has more rewards than turns: those
    past its last turn are left out, and so belong to it as the rest of the response's reward.

    Raises:
        ValueError: fewer rewards than turns.
    """
    ids, counts = segment_by_mask(mask)
    turns = turns.float().reshape(len(mask), -1)
    if turns.shape[1] < counts.max():
        raise ValueError(
            f"turn_rewards: expected a reward for each of up to {int(counts.max())} turns, got {turns.shape[1]}"
        )
    more = turns.masked_fill(torch.arange(turns.shape[1]) < counts[:, None], 0.0).any(1).sum()
    if more:
        warnings.warn(
            f"turn_rewards: {int(more)} of {len(mask)} responses have more rewards than turns; the rest goes to the "
            "last turn",
            stacklevel=2,
        )
    return segment_broadcast(turns, ids, how="last")


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors `[B_i, T_i]` as one `[B, T]`, with zeros on the right."""
    width = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])
