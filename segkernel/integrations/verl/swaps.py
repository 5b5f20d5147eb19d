"""Functions of verl that segkernel's operators replace."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.passing import check_positive, check_served, check_weight
from segkernel.integrations.targets import Framework, PassBack, Target
from segkernel.ops.gae import gae
from segkernel.ops.linear_token_logprobs import linear_token_logprobs
from segkernel.ops.token_logprobs import token_logprobs

FUNCTIONAL = "verl.utils.torch_functional"
FUSED = "verl.utils.experimental.torch_functional"
ALGORITHMS = "verl.trainer.ppo.core_algos"
RELEASES = ((0, 7), (0, 9))


def logprobs_from_logits(logits: Tensor, labels: Tensor, inplace_backward: bool = True) -> Tensor:
    """Log-probs of the labels, `[...]` float32, as from verl's path with flash-attention.

    The gradient overwrites the logits where it does in verl: with flash-attention's cross entropy.
    """
    logits = _logits(logits)
    functional: Any = importlib.import_module(FUNCTIONAL)
    flash = functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE and os.environ.get("VERL_DISABLE_FLASH_ATTN_CE") != "1"
    computed = not logits.is_leaf and (logits._base is None or not logits._base.is_leaf)
    return token_logprobs(logits, labels, inplace_backward=bool(inplace_backward and flash and computed))


def entropy_from_logits(logits: Tensor) -> Tensor:
    """Entropies `[...]` in the dtype of the logits."""
    return _entropy(logits).to(logits.dtype)


def entropy_from_logits_with_chunking(logits: Tensor, chunk_size: int = 2048) -> Tensor:
    """Entropies `[...]`, float32."""
    return _entropy(logits)


def fused_linear(
    self: Any, hidden_states: Tensor, vocab_weights: Tensor, input_ids: Tensor, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probs (float32) and entropies (dtype of the hidden states) `[...]`, without the logits in memory."""
    if getattr(self, "impl_backend", "torch") != "torch":
        raise PassBack(f"backend {self.impl_backend}")
    check_weight(vocab_weights)
    check_served(hidden_states, vocab_weights)
    if isinstance(temperature, Tensor):
        temperature = _per_token(temperature, input_ids)
    else:
        check_positive(temperature=temperature)
    logprobs, entropy = linear_token_logprobs(
        hidden_states, vocab_weights, input_ids, temperature=temperature, entropy=True
    )
    return logprobs, entropy.to(hidden_states.dtype)


@torch.no_grad()
def compute_gae_advantage_return(
    token_level_rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Whitened advantages, and returns, `[B, T]`; returns are 0 at masked positions."""
    check_served(token_level_rewards, values)
    functional: Any = importlib.import_module(FUNCTIONAL)
    advantages, returns = gae(token_level_rewards, values, response_mask, gamma=float(gamma), lam=float(lam))
    return functional.masked_whiten(advantages, response_mask), returns


def _per_token(temperature: Tensor, ids: Tensor) -> Tensor:
    """Temperatures in the shape of the ids, from one value, or one per token as verl divides logits by it: `[N, 1]`."""
    if temperature.requires_grad:
        raise PassBack("temperature with a gradient")
    if temperature.device.type == "cpu" and not (temperature > 0).all():
        raise PassBack("temperature that is not positive")
    temperature = temperature.to(ids.device, torch.float32)
    if temperature.numel() == 1:
        return temperature.reshape(()).expand(ids.shape)
    if temperature.shape not in (ids.shape, (*ids.shape, 1), (ids.numel(), 1)):
        raise PassBack("temperature of another shape")
    return temperature.reshape(ids.shape)


def _logits(logits: Tensor) -> Tensor:
    check_served(logits)
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _entropy(logits: Tensor) -> Tensor:
    logits = _logits(logits)
    labels = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    return token_logprobs(logits, labels, entropy=True)[1]


def _logits_example() -> tuple[Tensor, Tensor]:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return logits, torch.tensor([3, 0, 49, 7, 7, 1])


def _head_example() -> tuple[Any, ...]:
    module: Any = importlib.import_module(FUSED)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((2, 3, 8), (50, 8)))
    return module.FusedLinearForPPO(), hidden, weight, torch.tensor([[3, 0, 49], [7, 7, 1]]), 0.7


def _gae_example() -> tuple[Any, ...]:
    rewards, values = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    return rewards, values, torch.ones(3, 6), 0.9, 0.8


FRAMEWORK = Framework(
    "verl",
    "verl",
    (
        Target(
            FUNCTIONAL,
            "logprobs_from_logits",
            logprobs_from_logits,
            RELEASES,
            frozenset({"69d8d7f15a39f295", "62f3012b60336f3c"}),  # 0.7 and 0.8, 0.9
            example=_logits_example,
        ),
        Target(
            FUNCTIONAL,
            "entropy_from_logits",
            entropy_from_logits,
            RELEASES,
            frozenset({"8e17377e261fd06b"}),
            example=lambda: _logits_example()[:1],
        ),
        Target(
            FUNCTIONAL,
            "entropy_from_logits_with_chunking",
            entropy_from_logits_with_chunking,
            RELEASES,
            frozenset({"c2558f3bbc7c9b22"}),
            example=lambda: _logits_example()[:1],
        ),
        Target(
            FUSED,
            "FusedLinearForPPO.forward",
            fused_linear,
            RELEASES,
            frozenset({"cc405fb2e6e82c0e", "8c11f510606e7ed7"}),  # up to 0.9.0, 0.9.1
            example=_head_example,
        ),
        Target(
            ALGORITHMS,
            "compute_gae_advantage_return",
            compute_gae_advantage_return,
            RELEASES,
            frozenset({"4e11aa5944904d54"}),
            registries=(f"{ALGORITHMS}.ADV_ESTIMATOR_REGISTRY",),
            example=_gae_example,
        ),
    ),
)
