"""Advantages per turn or segment for slime, named in its options:

    --custom-reward-post-process-path segkernel.integrations.slime.asr_grpo
    --custom-advantage-function-path segkernel.integrations.slime.token_advantages
    --custom-config-path segkernel.yaml

with `segkernel: {delta: 0.5}` in segkernel.yaml. The first function computes the advantages where all samples of a
prompt are together, the second passes them on in every data-parallel rank, whose samples are only some of a group.

Rewards of tokens are in the dictionary that a custom reward function returns, as
`{"score": 1.0, "token_rewards": [...]}` with `--reward-key score`: one value for each of the `response_length` tokens.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from segkernel.integrations.advantages import agreeing_advantages, turn_advantages, with_remainder
from segkernel.integrations.estimators import estimator_options

Rewards = tuple[list[float], list[Tensor]]


def turn_grpo(args: Any, samples: Sequence[Any]) -> Rewards:
    """GRPO with an advantage per turn: the rewards from the turn on, relative to all turns of the prompt's samples.

    Turns are the runs of ones in a sample's loss mask. The last turn gets the difference between the sample's reward
    and the sum of its `token_rewards`; without `token_rewards`, the whole reward.

    Args:
        args: slime's arguments: `gamma` discounts per turn, `grpo_std_normalization` divides by the standard
            deviation, and `segkernel` has the option `per`, as in `segkernel.group_normalize`.
        samples: slime's samples.

    Returns:
        Rewards as they were, and the advantages of every sample's tokens, `[response_length]` float32.

    Raises:
        ValueError: an unknown option, or `token_rewards` of another length than the response.
    """
    options = _options("segkernel_turn_grpo", args)
    scores = [float(sample.get_reward_value(args)) for sample in samples]
    mask = pad_sequence([_mask(sample) for sample in samples], batch_first=True)
    rewards = pad_sequence([_token_rewards(sample, required=False) for sample in samples], batch_first=True)
    advantages = turn_advantages(
        with_remainder(rewards, mask, torch.tensor(scores)),
        mask,
        _groups(samples),
        gamma=float(args.gamma),
        scale=bool(args.grpo_std_normalization),
        **options,
    )
    return scores, _rows(advantages, samples)


def asr_grpo(args: Any, samples: Sequence[Any]) -> Rewards:
    """GRPO on the segments that agree with their response: Adaptive Segment-level Reward (arXiv 2411.00809).

    A response's advantage is that of GRPO, from its reward. Its tokens are split into segments where `token_rewards`
    change state, and only segments whose sign is that of the advantage keep it; the others get 0.

    Args:
        args: slime's arguments: `grpo_std_normalization`, and `segkernel` with the options of `segkernel.segment`:
            `delta`, `pivot_threshold` (at least one of them), `baseline`, `hold`, `keep_neutral`.
        samples: slime's samples.

    Returns:
        Rewards as they were, and the advantages of every sample's tokens, `[response_length]` float32.

    Raises:
        ValueError: neither `delta` nor `pivot_threshold`, an unknown option, or a sample without `token_rewards` or
            with another number of them than tokens.
    """
    options = _options("segkernel_asr_grpo", args)
    scores = [float(sample.get_reward_value(args)) for sample in samples]
    advantages = agreeing_advantages(
        pad_sequence([_token_rewards(sample, required=True) for sample in samples], batch_first=True),
        pad_sequence([_mask(sample) for sample in samples], batch_first=True),
        _groups(samples),
        scores=torch.tensor(scores),
        scale=bool(args.grpo_std_normalization),
        **options,
    )
    return scores, _rows(advantages, samples)


def token_advantages(args: Any, rollout_data: dict[str, Any]) -> None:
    """Advantages and returns of the samples of a data-parallel rank, from `turn_grpo` or `asr_grpo`.

    With context parallelism, every rank gets those of its tokens.

    Args:
        args: slime's arguments.
        rollout_data: slime's data of the rank, which gets `advantages` and `returns`: they are equal.

    Raises:
        ValueError: rewards that are scalars: `--custom-reward-post-process-path` names another function.
    """
    rewards = rollout_data["rewards"]
    if not all(isinstance(reward, Tensor) and reward.ndim == 1 for reward in rewards):
        raise ValueError(
            "rewards: expected advantages per token, got scalars; set --custom-reward-post-process-path to "
            f"{__name__}.turn_grpo or {__name__}.asr_grpo"
        )
    slices: Any = importlib.import_module("slime.backends.megatron_utils.cp_utils")
    rollout_data["advantages"] = [
        slices.slice_log_prob_with_cp(reward, total, response).to(kl.device)
        for reward, total, response, kl in zip(
            rewards,
            rollout_data["total_lengths"],
            rollout_data["response_lengths"],
            rollout_data["kl"],
            strict=True,
        )
    ]
    rollout_data["returns"] = list(rollout_data["advantages"])


def _options(name: str, args: Any) -> dict[str, Any]:
    given = getattr(args, "segkernel", None)
    return estimator_options(name, given, "segkernel in --custom-config-path", "segkernel: {delta: 0.5}")


def _mask(sample: Any) -> Tensor:
    """Loss mask of a sample, `[response_length]`, as slime completes it."""
    if sample.remove_sample:
        return torch.zeros(sample.response_length, dtype=torch.bool)
    if sample.loss_mask is None:
        return torch.ones(sample.response_length, dtype=torch.bool)
    return torch.tensor(sample.loss_mask, dtype=torch.bool)


def _token_rewards(sample: Any, *, required: bool) -> Tensor:
    """Token rewards of a sample, `[response_length]`; zeros if it has none and needs none."""
    given = sample.reward.get("token_rewards") if isinstance(sample.reward, dict) else None
    if given is None and not required:
        return torch.zeros(sample.response_length)
    if given is None or len(given) != sample.response_length:
        raise ValueError(
            f"token_rewards: expected {sample.response_length} values in the reward of sample {sample.index}, got "
            f"{'none' if given is None else len(given)}"
        )
    return torch.as_tensor(given, dtype=torch.float32)


def _groups(samples: Sequence[Any]) -> list[int]:
    for sample in samples:
        if sample.group_index is None:
            raise ValueError(f"group_index: expected that of a prompt, got None for sample {sample.index}")
    return [sample.group_index for sample in samples]


def _rows(advantages: Tensor, samples: Sequence[Any]) -> list[Tensor]:
    return [row[: sample.response_length].clone() for row, sample in zip(advantages, samples, strict=True)]
