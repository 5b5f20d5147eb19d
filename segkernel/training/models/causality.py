"""Checks on a few tokens that outputs depend on no later token, and not on padding at the left."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from segkernel.training.models.forward import innermost, takes_position_ids

__all__ = ["check_causal", "check_left_padding"]


def check_causal(model: PreTrainedModel, option: str) -> None:
    """Refuse a model whose outputs change with a later token, as those of bidirectional encoders do.

    Two sequences of eight tokens that differ in the last four are read.

    Raises:
        ValueError: the outputs at the first four tokens differ by more than rounding. The error names the option.
    """
    ids = torch.tensor([[3, 4, 5, 6, 3, 3, 3, 3], [3, 4, 5, 6, 7, 6, 5, 4]])
    one, other = _logits(model, ids)[:, :4]
    if _differ(one, other):
        raise ValueError(
            f"{option}: expected a causal model, whose outputs depend on no later token, got {type(model).__name__}"
        )


def check_left_padding(model: Any, option: str) -> None:
    """Refuse a model whose outputs change with padding at the left, which batches of prompts have in sampling.

    Such models (BART's family, RWKV) neither take `position_ids` nor derive them from the attention mask.

    Raises:
        ValueError: the outputs differ by more than rounding. The error names the option.
    """
    ids = torch.tensor([[3, 4, 5, 6]])
    if _differ(_logits(model, ids)[0], _logits(model, ids, padding=4)[0]):
        raise ValueError(
            f"{option}: expected a model whose outputs do not change with padding at the left (of prompts in sampling, "
            f"or with padding_side='left'), got {type(innermost(model)).__name__}"
        )


@torch.no_grad()
def _logits(model: Any, ids: Tensor, padding: int = 0) -> Tensor:
    """Logits `[B, T, V]` of token ids `[B, T]`, read with so many pad tokens at the left."""
    mask = F.pad(torch.ones_like(ids), (padding, 0))
    inputs = {"input_ids": F.pad(ids, (padding, 0)), "attention_mask": mask}
    if takes_position_ids(model):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    was_training = model.training
    model.eval()
    logits: Tensor = model(**{name: values.to(model.device) for name, values in inputs.items()}).logits
    model.train(was_training)
    return logits[:, padding:]


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs differ by more than rounding."""
    return float((one - other).abs().max()) > min(1e3 * torch.finfo(one.dtype).eps, 0.1) * float(one.abs().max())
