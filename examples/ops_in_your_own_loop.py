"""The operators in a training loop of your own: prefix scores -> token rewards -> segments -> loss mask -> DPO loss.

Run: `python -m examples.ops_in_your_own_loop`. The models are random and tiny; replace them with yours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import segkernel
from segkernel.losses import dpo_loss

PAIRS, LENGTH, PROMPT, VOCABULARY, WIDTH = 8, 24, 6, 100, 32


class TinyModel(nn.Module):
    """A causal model: `input_ids` [B, T] -> outputs [B, T, `outputs`]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.body = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(input_ids))[0])


def main(steps: int = 30) -> tuple[float, float, float]:
    """Train on one batch of random pairs; returns first loss, last loss and the share of response tokens kept."""
    torch.manual_seed(0)
    policy, reference, reward_model = TinyModel(VOCABULARY), TinyModel(VOCABULARY), TinyModel(1)
    reference.load_state_dict(policy.state_dict())

    # Rows alternate: chosen, rejected, chosen, ... Every row is a prompt, a response and padding.
    input_ids = torch.randint(VOCABULARY, (2 * PAIRS, LENGTH))  # [B, T]
    lengths = torch.randint(PROMPT + 4, LENGTH + 1, (2 * PAIRS, 1))
    positions = torch.arange(LENGTH)
    response = (positions >= PROMPT) & (positions < lengths)  # [B, T]
    signs = torch.tensor([+1.0, -1.0]).repeat(PAIRS)  # +1 chosen, -1 rejected

    # Before training: the mask of the segments whose sign agrees with their response.
    with torch.no_grad():
        prefix_scores = 3 * reward_model(input_ids)[..., 0]  # [B, T]
    prompt_scores = prefix_scores[:, PROMPT - 1]
    rewards = segkernel.redistribute(prefix_scores, response, initial=prompt_scores)
    delta = 0.5 * rewards[response].std().item()
    segments = segkernel.segment(rewards, response, delta=delta, sequence_sign=signs)
    kept = segments.mask
    assert kept is not None  # there is a mask because sequence_sign was given

    def sums(model: nn.Module) -> Tensor:
        """Log-probabilities of the kept tokens, summed per row. Logits of masked tokens are never read."""
        logits = model(input_ids)
        return segkernel.sequence_logprobs(logits[:, :-1], input_ids[:, 1:], kept[:, 1:])

    with torch.no_grad():
        reference_sums = sums(reference)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        policy_sums = sums(policy)
        loss = dpo_loss(policy_sums[::2], policy_sums[1::2], reference_sums[::2], reference_sums[1::2], beta=0.1)[0]
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
    share = (kept.sum() / response.sum()).item()
    print(f"{100 * share:.0f} % of the response tokens are trained on; DPO loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses[0], losses[-1], share


if __name__ == "__main__":
    main()
