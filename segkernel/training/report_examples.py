"""Responses for the report: with token rewards, segments and loss masks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import SEQUENCE_SIGNS, SIDES
from segkernel.training.data.token_texts import token_texts
from segkernel.training.report.example import Example, example_from_segments
from segkernel.training.report.sample import Sample, extremes
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.thresholds import Thresholds


def report_examples(
    rows: Iterable[Mapping[str, Any]],
    thresholds: Thresholds,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: Sequence[int],
) -> list[Example]:
    """Report examples of both responses of pairs with token rewards and baselines, cut into segments."""
    examples = []
    for row in rows:
        for side, sign, baseline in zip(SIDES, SEQUENCE_SIGNS, row["baseline"], strict=True):
            response = (row["prompt_ids"], row[f"{side}_ids"], row[f"{side}_token_rewards"])
            examples.append(report_example(side, *response, sign, thresholds, baseline, tokenizer, end_ids))
    return examples


def report_example(
    label: str,
    prompt_ids: list[int],
    response_ids: list[int],
    token_rewards: list[float],
    sign: int,
    thresholds: Thresholds,
    baseline: float,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: Sequence[int],
) -> Example:
    """Report example of one response with token rewards, cut into segments."""
    ended = torch.tensor([response_ids[-1] in end_ids])
    rewards = TokenRows(torch.tensor(token_rewards), torch.tensor([0, len(token_rewards)]), ended)
    segments = thresholds.segment(rewards, torch.tensor([baseline], dtype=torch.float64), torch.tensor([sign]))
    padded = {name: values[None] for name, values in segments._asdict().items() if name != "counts"}
    return example_from_segments(
        str(tokenizer.decode(prompt_ids, skip_special_tokens=True)),
        label,
        token_texts(response_ids, tokenizer),
        token_rewards,
        segments._replace(**padded),
        baseline=baseline,
        delta=thresholds.delta,
        pivot_threshold=thresholds.pivot_threshold,
    )


def rollout_samples(rollout: Mapping[str, Tensor], count: int, tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    """Best and worst responses of a rollout, with their advantages and the mask of the policy loss.

    Args:
        rollout: `input_ids`, `attention_mask`, `response_mask`, `policy_mask`, `token_rewards`, `advantages`, each
            `[B, T]`, and `sequence_rewards` `[B]`, NaN for responses that are left out.
        count: number of responses.
        tokenizer: tokenizer of the ids.
    """
    samples = []
    for label, row in extremes(rollout["sequence_rewards"].tolist(), count):
        values = {name: tensor[row] for name, tensor in rollout.items()}
        response = values["response_mask"]
        prompt = values["attention_mask"].bool() & ~response
        kept = values["policy_mask"][response].tolist()
        samples.append(
            Sample(
                str(tokenizer.decode(values["input_ids"][prompt].tolist(), skip_special_tokens=True)),
                label,
                token_texts(values["input_ids"][response].tolist(), tokenizer),
                values["token_rewards"][response].tolist(),
                float(values["sequence_rewards"]),
                kept=None if all(kept) else kept,
                advantages=values["advantages"][response].tolist(),
            )
        )
    return samples


def best_and_worst(samples: Dataset, count: int) -> Dataset:
    """Best and worst sample of each of the first prompts, `count` rows at most.

    Args:
        samples: rows with `prompt_index` and `reward`.
        count: number of rows.
    """
    prompts, rewards = (np.array(samples[name]) for name in ("prompt_index", "reward"))
    rows: list[int] = []
    for prompt in np.unique(prompts):
        own = np.flatnonzero(prompts == prompt)
        best, worst = own[rewards[own].argmax()], own[rewards[own].argmin()]
        rows += [int(best)] if best == worst else [int(best), int(worst)]
        if len(rows) >= count:
            break
    return samples.select(rows[:count])


def scored_samples(samples: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    """Report samples of rows with `token_rewards` in the order of `best_and_worst`: a prompt's best sample first."""
    found: list[Sample] = []
    before = None
    for row in samples:
        label = "worst" if row["prompt_index"] == before else "best"
        before = row["prompt_index"]
        found.append(
            Sample(
                str(tokenizer.decode(row["prompt_ids"], skip_special_tokens=True)),
                label,
                token_texts(row["response_ids"], tokenizer),
                row["token_rewards"],
                row["reward"],
            )
        )
    return found
