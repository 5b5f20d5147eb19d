"""Rewards for OpenRLHF: of a response, and of its tokens. `examples/openrlhf_asr_grpo.sh` trains with them.

A response earns 1 if it ends with the label. A token earns 1 in a right calculation, such as `3 * 4 = 12`, and loses 1
in a wrong one; the others earn 0.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import torch
from torch import Tensor

CALCULATION = re.compile(r"(\d+) *([-+*]) *(\d+) *= *(\d+)")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """OpenRLHF's reward function: one value per response (`--reward.remote_url`)."""
    rewards = [float(query.split()[-1:] == [label]) for query, label in zip(queries, labels, strict=True)]
    return {"rewards": torch.tensor(rewards), "scores": torch.tensor(rewards), "extra_logs": {}}


def token_rewards(experience: Any, tokenizer: Any) -> Tensor:
    """Rewards of tokens, in the shape of OpenRLHF's action mask (`--advantages ... rewards=`).

    The mask `[B, T - 1]` belongs to the sequences `[B, T]` without their first token.
    """
    rewards = torch.zeros(experience.action_mask.shape)
    for row, (tokens, mask) in enumerate(zip(experience.sequences[:, 1:], experience.action_mask, strict=True)):
        positions = mask.nonzero()[:, 0]
        pieces = [tokenizer.decode([token]) for token in tokens[positions].tolist()]
        ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)
        for found in CALCULATION.finditer("".join(pieces)):
            left, sign, right, result = found.groups()
            is_right = OPERATORS[sign](int(left), int(right)) == int(result)
            inside = (ends > found.start()) & (ends - torch.tensor(list(map(len, pieces))) < found.end())
            rewards[row, positions[inside]] = 1.0 if is_right else -1.0
    return rewards
