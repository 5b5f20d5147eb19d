"""Rewards for slime: of a response, and of its tokens. `examples/slime_asr_grpo.sh` has the options that name it.

A response earns 1 if it ends with the label. A token loses 1 if it completes four tokens that the response has had
before, and earns 1 otherwise: loops get no credit from a right answer, and other tokens no blame for loops.
"""

from __future__ import annotations

from typing import Any

LENGTH = 4


async def reward(args: Any, sample: Any) -> dict[str, Any]:
    """slime's reward function (`--custom-rm-path`), with `--reward-key score`."""
    tokens = sample.tokens[len(sample.tokens) - sample.response_length :]
    return {
        "score": float(sample.response.split()[-1:] == [sample.label]),
        "token_rewards": repetitions(tokens),
    }


def repetitions(tokens: list[int]) -> list[float]:
    """-1 for tokens that complete a repetition, and 1 for the others.

    Example:
        >>> repetitions([5, 6, 7, 8, 5, 6, 7, 8, 9])
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0]
    """
    seen: set[tuple[int, ...]] = set()
    rewards = []
    for end in range(1, len(tokens) + 1):
        last = tuple(tokens[max(end - LENGTH, 0) : end])
        rewards.append(-1.0 if last in seen else 1.0)
        seen.add(last)
    return rewards
