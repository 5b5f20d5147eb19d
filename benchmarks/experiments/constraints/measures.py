"""Measures of a policy under constraints."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from benchmarks.experiments.constraints.answers import Answer, prompt_ids, sample_answers, shares_met
from benchmarks.experiments.constraints.grammar import lints_per_100_words
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.policies.logprobs import divergence
from benchmarks.experiments.pretrained.preferences import held_out_accuracy


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
