"""Measures of a policy under constraints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from transformers import PreTrainedModel

from benchmarks.experiments.constraints.answers import Answer, answer_credit, prompt_ids, sample_answers, shares_met
from benchmarks.experiments.constraints.grammar import lints_per_100_words
from benchmarks.experiments.constraints.pairs import Pair
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.policies.logprobs import divergence
from benchmarks.experiments.pretrained.preferences import held_out_accuracy
from segkernel.training.data.collators import ResponseCollator
from segkernel.training.rewards.prefix_scores import token_rewards
from segkernel.training.rewards.reward_model import prefix_scores
from segkernel.training.trainer.batches import response_batch


def measure_policy(work: ConstraintsWorkspace, model: PreTrainedModel, *, job: Job) -> dict[str, float | None]:
    """Constraints that its sampled answers meet, its distance from the start model, how it ranks held-out pairs.

    The answers are kept in the job's folder.
    """
    prompts = work.prompts("questions", work.settings.questions, held_out=True)
    found = sample_answers(model, work.tokenizer, prompts, seed=work.seed, temperature=work.settings.temperature)
    work.write_policy_answers(job, list(zip(prompts, found, strict=True)))
    answers = [one for (one,) in found]
    ids = [list(one.ids) for one in answers]
    encoded = [prompt_ids(work.tokenizer, prompt) for prompt in prompts]
    return {
        **measure_answers(answers),
        "lints": lints_per_100_words([one.text for one in answers]),
        "kl": divergence(model, work.policy(), encoded, ids, batch_size=work.measured_batch),
        "preference_accuracy": held_out_accuracy(work, model),
    }


def measure_answers(answers: Sequence[Answer]) -> dict[str, float]:
    """Shares over answers. A malformed answer meets no constraint, except in the shares by rule.

    Example:
        >>> text = "Rivers carry water down from hills. They feed towns and fields on every side."
        >>> good, cut = Answer((1, 2), text, True), Answer((1, 2, 3), text, False)
        >>> measure_answers([good, cut])["met"]
        0.5
    """
    formed = [one.is_well_formed for one in answers]
    met = [sum(one.met) / len(one.met) if fine else 0.0 for one, fine in zip(answers, formed, strict=True)]
    every = [fine and all(one.met) for one, fine in zip(answers, formed, strict=True)]
    return {
        "met": sum(met) / len(met),
        "all_met": sum(every) / len(every),
        "malformed": 1 - sum(formed) / len(formed),
        "length": sum(len(one.ids) for one in answers) / len(answers),
        **{name: share for name, share in shares_met(answers).items() if name != "all"},
    }


@torch.no_grad()
def violations_found(work: ConstraintsWorkspace, reward_model: PreTrainedModel, pairs: Sequence[Pair]) -> float:
    """AUC: the probability that a token of a violation has a lower reward than a token outside of violations.

    The tokens are those of the answers of the pairs; an answer in several pairs counts once. Each pair has a violation,
    since the judge tells its answers apart by them.
    """
    answers = list(
        dict.fromkeys(
            (tuple(prompt_ids(work.tokenizer, p.prompt)), side.ids) for p in pairs for side in (p.chosen, p.rejected)
        )
    )
    collator = ResponseCollator.of(work.tokenizer)
    rewards, credits = [], []
    for first in range(0, len(answers), work.measured_batch):
        prompts, responses = zip(*answers[first : first + work.measured_batch], strict=True)
        batch = response_batch([*map(list, prompts)], [*map(list, responses)], collator, reward_model.device)
        found = token_rewards(prefix_scores(reward_model, batch), batch, "difference")
        rewards.append(found[batch["response_mask"]].double().cpu().numpy())
        credits += [sign for ids in responses for sign in answer_credit(work.tokenizer, ids)]
    return ranked_lower(np.concatenate(rewards), np.array(credits) < 0)


def ranked_lower(values: np.ndarray, of: np.ndarray) -> float:
    """Probability that a value of one group is lower than one of the rest; equal values count half.

    Example:
        >>> ranked_lower(np.array([1.0, 2.0, 2.0, 3.0]), np.array([True, False, True, False]))
        0.875
    """
    group, rest = values[of], values[~of]
    return 1 - float(mannwhitneyu(group, rest).statistic) / (len(group) * len(rest))
