"""Functions of OpenRLHF that segkernel's operators replace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.estimators import requested_advantages
from segkernel.integrations.openrlhf.credit import EXPERIENCE, compute_advantages_and_returns
from segkernel.integrations.passing import check_positive, check_served
from segkernel.integrations.targets import Framework, Target
from segkernel.ops.discounted_sum import discounted_sum
from segkernel.ops.gae import gae
from segkernel.ops.token_logprobs import token_logprobs

UTILS = "openrlhf.models.utils"
RELEASES = ((0, 9), (0, 11))


def log_probs_from_logits(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probs of the labels, `[...]`, in the dtype of the logits, which are divided by the temperature in place."""
    check_served(logits)
    check_positive(temperature=temperature)
    if temperature != 1.0:
        logits.div_(temperature)  # the caller's tensor, as in OpenRLHF, which computes entropies from it afterwards
    return token_logprobs(_logits(logits), labels).to(logits.dtype)


def compute_entropy(logits: Tensor) -> Tensor:
    """Entropies `[...]` in the dtype of the logits."""
    logits = _logits(logits)
    labels = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    return token_logprobs(logits, labels, entropy=True)[1].to(logits.dtype)


def get_advantages_and_returns(
    self: Any, values: Tensor, rewards: Tensor, action_mask: Tensor | None, gamma: float, lambd: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns `[B, T]`: every position is a step, with reward and value 0 where it is masked."""
    check_served(values, rewards)
    if action_mask is not None:
        values, rewards = action_mask * values, action_mask * rewards
    return gae(rewards, values, gamma=gamma, lam=lambd)


@torch.no_grad()
def get_cumulative_returns(self: Any, rewards: Tensor, action_mask: Tensor | None, gamma: float) -> Tensor:
    """Returns `[B, T]`: every position is a step, with reward 0 where it is masked."""
    check_served(rewards)
    if action_mask is not None:
        rewards = action_mask * rewards
    return discounted_sum(rewards, discount=gamma)


def _logits(logits: Tensor) -> Tensor:
    check_served(logits)
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _logits_example() -> tuple[Tensor, Tensor]:
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return logits, torch.tensor([[3, 0, 49], [7, 7, 1]])


def _rewards_example() -> tuple[Tensor, Tensor, Tensor]:
    rewards, values = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    return rewards, values, torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0]])


def _gae_example() -> tuple[Any, ...]:
    rewards, values, mask = _rewards_example()
    return None, values, rewards, mask, 0.9, 0.8


def _returns_example() -> tuple[Any, ...]:
    rewards, _, mask = _rewards_example()
    return None, rewards, mask, 0.9


FRAMEWORK = Framework(
    "openrlhf",
    "openrlhf",
    (
        Target(
            UTILS,
            "log_probs_from_logits",
            log_probs_from_logits,
            RELEASES,
            frozenset({"eb0bd31f9ea79301"}),
            example=_logits_example,
        ),
        Target(
            UTILS,
            "compute_entropy",
            compute_entropy,
            RELEASES,
            frozenset({"b487adf2769b525f"}),
            example=lambda: _logits_example()[:1],
        ),
        Target(
            EXPERIENCE,
            "RemoteExperienceMaker.get_advantages_and_returns",
            get_advantages_and_returns,
            RELEASES,
            frozenset({"a56c14a1aa00176b"}),
            example=_gae_example,
        ),
        Target(
            EXPERIENCE,
            "RemoteExperienceMaker.get_cumulative_returns",
            get_cumulative_returns,
            RELEASES,
            frozenset({"0ce6cecbf91ab3e1"}),
            example=_returns_example,
        ),
        Target(
            EXPERIENCE,
            "RemoteExperienceMaker.compute_advantages_and_returns",
            compute_advantages_and_returns,
            RELEASES,
            frozenset({"38c2441ef94c1566", "94cf8039e668c64c", "865cc358017725c7"}),  # to 0.10.0, to 0.11.1, 0.11.2
            requested=lambda: requested_advantages() is not None,
        ),
    ),
)
