"""Measures of a policy on held-out pairs of solutions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from transformers import PreTrainedModel

from benchmarks.experiments.gsm8k.workspace import GSM8KWorkspace
from benchmarks.experiments.policies.logprobs import (
    PairLogprobs,
    divergence,
    gained,
    pair_logprobs,
    preference_accuracy,
)


def measure_policy(work: GSM8KWorkspace, model: PreTrainedModel) -> dict[str, float]:
    """Accuracy and implicit rewards on whole answers, and the divergence from the start model."""
    rows = work.held_out_rows()
    after = pair_logprobs(model, rows, batch_size=work.measured_batch)
    right = rows[: work.settings.measured_answers]
    kl = divergence(
        model,
        work.policy(),
        [row["prompt_ids"] for row in right],
        [row["chosen_ids"] for row in right],
        batch_size=work.measured_batch,
    )
    return {**measure_pairs(work.start_logprobs(), after, work.settings.beta), "kl": kl}


def measure_pairs(before: Sequence[PairLogprobs], after: Sequence[PairLogprobs], beta: float) -> dict[str, float]:
    """Accuracy of the implicit reward and of the mean log-probability, and mean implicit rewards by side.

    Args:
        before: log-probabilities of the pairs' tokens under the start model.
        after: the same under the policy.
        beta: scale of the implicit reward, the log-ratio of a whole answer.

    Example:
        >>> measure_pairs([([-1.0, -1.0], [-1.0])], [([-0.5, -0.5], [-2.0])], beta=0.5)
        {'preference_accuracy': 1.0, 'likelihood_accuracy': 1.0, 'chosen_reward': 0.5, 'rejected_reward': -0.5}
    """
    rewards = [
        [beta * gained(old[side], new[side], None) for old, new in zip(before, after, strict=True)] for side in (0, 1)
    ]
    return {
        "preference_accuracy": preference_accuracy(before, after),
        "likelihood_accuracy": likelihood_accuracy(after),
        "chosen_reward": fmean(rewards[0]),
        "rejected_reward": fmean(rewards[1]),
    }


def likelihood_accuracy(logprobs: Sequence[PairLogprobs]) -> float:
    """Share of pairs whose chosen answer has the larger mean log-probability per token.

    Example:
        >>> likelihood_accuracy([([-1.0, -1.0, -1.0], [-2.0]), ([-3.0], [-2.0])])
        0.5
    """
    return fmean(fmean(chosen) > fmean(rejected) for chosen, rejected in logprobs)
