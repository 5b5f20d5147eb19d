"""Losses as pure functions of log-probabilities, scores and logits."""

from segkernel.losses.bradley_terry import bradley_terry_loss
from segkernel.losses.distillation import adaptive_teacher, aligndistil_loss, distillation_loss
from segkernel.losses.dpo import dpo_loss
from segkernel.losses.ppo import ppo_policy_loss, ppo_value_loss
from segkernel.losses.simpo import simpo_loss

__all__ = [
    "adaptive_teacher",
    "aligndistil_loss",
    "bradley_terry_loss",
    "distillation_loss",
    "dpo_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "simpo_loss",
]
