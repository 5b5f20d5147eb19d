"""Loss for PRIME-RL, named in its configuration:

[trainer.loss]
type = "custom"
import_path = "segkernel.integrations.prime_rl.segment_ratio_loss"
kwargs = { clip_low = 0.2, clip_high = 0.2 }
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from segkernel.integrations.advantages import segment_ratios


def segment_ratio_loss(inputs: Any, clip_low: float = 0.2, clip_high: float = 0.2) -> Any:
    """Clipped policy loss of one sequence with an importance ratio per segment: GSPO below the sequence level.

    Segments are the runs of tokens under the loss mask with an advantage other than 0, such as turns.

    Args:
        inputs: PRIME-RL's `LossInputs`: log-probs, advantages and mask, `[T]`.
        clip_low, clip_high: the ratio counts within `[1 - clip_low, 1 + clip_high]`, as in PPO.

    Returns:
        PRIME-RL's `LossOutputs`: the sum of the token losses, and metrics.
    """
    mask = inputs.loss_mask & (inputs.advantages != 0)
    ratios = segment_ratios(inputs.trainer_logprobs[None], inputs.inference_logprobs[None], mask[None])[0]
    losses = -inputs.advantages * ratios
    clipped = -inputs.advantages * ratios.clamp(1 - clip_low, 1 + clip_high)
    per_token = torch.maximum(losses, clipped).masked_fill(~mask, 0.0)
    if inputs.loss_weights is not None:
        per_token = per_token * inputs.loss_weights
    is_clipped = (clipped > losses) & mask
    metrics = {"is_clipped": is_clipped.sum() / mask.sum().clamp(min=1)}
    return importlib.import_module("prime_rl.trainer.rl.loss").LossOutputs(loss=per_token.sum(), metrics=metrics)
