"""Check that a model is causal: no output depends on a later token."""

import torch
from transformers import PreTrainedModel

from segkernel.training.models.forward import takes_position_ids

__all__ = ["check_causal"]


def check_causal(model: PreTrainedModel, option: str) -> None:
    """Refuse a model whose outputs change with a later token, as those of bidirectional encoders do.

    Two sequences of eight tokens that differ in the last four are read.

    Raises:
        ValueError: the outputs at the first four tokens differ by more than rounding. The error names the option.
    """
    ids = torch.tensor([[3, 4, 5, 6, 3, 3, 3, 3], [3, 4, 5, 6, 7, 6, 5, 4]], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if takes_position_ids(model):
        inputs["position_ids"] = torch.arange(8, device=model.device).expand(2, 8)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        one, other = model(**inputs).logits[:, :4]
    model.train(was_training)
    rounding = min(1e3 * torch.finfo(one.dtype).eps, 0.1) * float(one.abs().max())
    if float((one - other).abs().max()) > rounding:
        raise ValueError(
            f"{option}: expected a causal model, whose outputs depend on no later token, got {type(model).__name__}"
        )
