"""Token rewards that a policy trained by DPO implies (Rafailov et al. 2024, arXiv 2404.12358)."""

import torch.nn.functional as F
from torch import Tensor, nn

import segkernel
from segkernel.training.trainer.batches import Batch, model_logits


class ImplicitRewardScorer:
    """`PrefixScorer` of a DPO policy and its reference model.

    A token's reward is `beta * (log pi - log pi_ref)`; a prefix's score is the sum of its response tokens' rewards.

    Args:
        policy, reference: causal language models over the same tokens; both are frozen.
        beta: the beta that `policy` was trained with.

    Raises:
        ValueError: `beta` is not positive.
    """

    def __init__(self, policy: nn.Module, reference: nn.Module, *, beta: float = 0.1) -> None:
        if not beta > 0:
            raise ValueError(f"reward_policy_beta: expected a positive number, got {beta}")
        self.policy, self.reference = (model.eval().requires_grad_(False) for model in (policy, reference))
        self.beta = beta

    def __call__(self, batch: Batch) -> Tensor:
        labels, mask = (batch[name].flatten(0, -2)[:, 1:] for name in ("input_ids", "response_mask"))
        policy, reference = (
            segkernel.token_logprobs(model_logits(model.to(labels.device), batch)[:, :-1], labels, mask)
            for model in (self.policy, self.reference)
        )
        return F.pad(self.beta * (policy - reference).cumsum(1), (1, 0))
