"""Advantages per turn or segment for SkyRL, whose training script registers them (examples/skyrl_turn_grpo.py):

    from functools import partial

    from segkernel.integrations import skyrl
    from skyrl.backends.skyrl_train.utils.ppo_utils import register_advantage_estimator
    from skyrl.train.trainer import RayPPOTrainer

    register_advantage_estimator("segkernel_turn_grpo")(skyrl.turn_grpo)
    register_advantage_estimator("segkernel_asr_grpo")(partial(skyrl.asr_grpo, delta=0.5))

    class Trainer(skyrl.LossMaskAdvantages, RayPPOTrainer):
        pass

and on the command line `trainer.algorithm.advantage_estimator=segkernel_turn_grpo`.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from segkernel.integrations.advantages import agreeing_advantages, rewards_under, turn_advantages


class LossMaskAdvantages:
    """Mixin for SkyRL's trainers: advantage estimators get the loss mask, whose runs of ones are turns.

    SkyRL passes them the response mask, which has ones at tool output as well. A reward outside of the loss mask, such
    as that of a turn whose end token SkyRL has added, moves to the last token before it that is in the mask. The batch
    gets its own mask and rewards back.

    Raises:
        ValueError: `generator.step_wise_trajectories`, with which estimators see the last turn only.
    """

    cfg: Any

    def compute_advantages_and_returns(self, data: Any) -> Any:
        if self.cfg.generator.step_wise_trajectories:
            raise ValueError(
                "generator.step_wise_trajectories: expected false, as advantages per turn or segment need all turns of "
                "a trajectory in one sequence, got true"
            )
        own = {name: data[name] for name in ("response_mask", "rewards")}
        data["response_mask"] = data["loss_mask"]
        data["rewards"] = rewards_under(data["loss_mask"], data["rewards"])
        trainer: Any = super()
        output = trainer.compute_advantages_and_returns(data)
        for name, value in own.items():
            output[name] = value.to(output[name].device)
        return output


def turn_grpo(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any,
    gamma: float = 1.0,
    grpo_norm_by_std: bool = True,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """GRPO with an advantage per turn (`turn_advantages`); returns advantages and returns `[B, T]`, which are equal.

    Warns if all responses are single turns, as they are for a trainer without `LossMaskAdvantages`.
    """
    valid = response_mask.bool()
    starts = valid[:, :1].sum(1) + (valid[:, 1:] & ~valid[:, :-1]).sum(1)
    if not (starts > 1).any():
        warnings.warn(
            "segkernel_turn_grpo: every response of the batch is a single turn, so the advantages are those of GRPO; "
            "with several turns, the trainer needs the mixin segkernel.integrations.skyrl.LossMaskAdvantages",
            stacklevel=2,
        )
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
