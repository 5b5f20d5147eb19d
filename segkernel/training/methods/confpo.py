"""ConfPO: preferences on the tokens that the policy is least sure of (Yoon et al., ICML 2025).

At every step a response's tokens are those whose probability under the current policy is below the mean over the
response: `S = {t: log pi(y_t) < log mean_t pi(y_t)}`, constant to the gradient. The loss is that of `simpo` on their
mean log-probabilities. A pair with a side without such a token has a loss of 0 and is counted.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from segkernel.training.methods.simpo import SimPOConfig, SimPOTrainer
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.response_logits import logprobs_under


@dataclass
class ConfPOConfig(SimPOConfig):
    """Settings of `ConfPOTrainer`, with the published defaults of `beta` and `gamma`."""

    beta: float = field(default=1.5, metadata={"help": "Scale of the difference of mean log-probabilities."})
    gamma: float = field(
        default=1.6, metadata={"help": "Margin by which the scaled difference is to exceed 0, at least 0."}
    )


class ConfPOTrainer(SimPOTrainer):
    """SimPO on the tokens of low probability. Its arguments are those of `SimPOTrainer`."""

    args: ConfPOConfig

    def selected(self, logits: Tensor, batch: Batch) -> Tensor:
        mask = batch["loss_mask"]
        with torch.no_grad():
            logprobs = logprobs_under(logits, batch, mask).view_as(mask).double()
        # The mean probability, in logs: it may be too small for a float.
        total = torch.where(mask, logprobs, -torch.inf).logsumexp(-1)
        threshold = total - mask.sum(-1).double().log()
        return mask & (logprobs < threshold[..., None])
