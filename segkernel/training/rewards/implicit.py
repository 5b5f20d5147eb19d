"""Token rewards that a policy trained by DPO implies (Rafailov et al. 2024, arXiv 2404.12358)."""

from torch import Tensor, nn

from segkernel import _validate
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.response_logits import response_logprobs


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
        _validate.positive("reward_policy_beta", beta)
        self.policy, self.reference = (model.eval().requires_grad_(False) for model in (policy, reference))
        self.beta = beta

    def __call__(self, batch: Batch) -> Tensor:
        device = batch["input_ids"].device
        policy, reference = (response_logprobs(model.to(device), batch) for model in (self.policy, self.reference))
        return self.beta * (policy - reference).cumsum(1)
