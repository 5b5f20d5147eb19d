"""Function of LLaMA-Factory that segkernel's operators replace."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel.integrations.passing import check_served
from segkernel.integrations.targets import Framework, PassBack, Target
from segkernel.ops.token_logprobs import token_logprobs

UTILS = "llamafactory.train.trainer_utils"


def get_batch_logps(
    logits: Tensor, labels: Tensor, label_pad_token_id: int = -100, ld_alpha: float | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of the log-probs of the labels, and numbers of labels, `[B]`. Logits `[B, T, V]` of padding are not read."""
    if ld_alpha is not None:
        raise PassBack("ld_alpha")
    if logits.shape[:-1] != labels.shape:
        raise PassBack("shapes that differ")
    check_served(logits)
    targets = labels[:, 1:]
    mask = targets != label_pad_token_id
    logprobs = token_logprobs(logits[:, :-1], targets.masked_fill(~mask, 0), mask)
    return logprobs.sum(-1).to(logits.dtype), mask.sum(-1)


def _example() -> tuple[Tensor, Tensor]:
    logits = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return logits, torch.tensor([[-100, 0, 49, 3], [-100, -100, 7, -100]])


FRAMEWORK = Framework(
    "llamafactory",
    "llamafactory",
    (
        Target(
            UTILS,
            "get_batch_logps",
            get_batch_logps,
            ((0, 9), (0, 9)),
            frozenset({"c2661fb808133ac6"}),  # 0.9.3 to 0.9.5
            example=_example,
        ),
    ),
)
