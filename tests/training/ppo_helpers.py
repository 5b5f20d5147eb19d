"""PPO trainers on three prompts with fixed responses."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.training.trainer_helpers import QUICK, tiny_lm, tiny_reward_model

EOS = 1
PROMPTS = [[5, 6, 7], [8], [9, 10]]
# A response with an EOS, a response of only the EOS, and one that is cut off.
RESPONSES = [[11, 12, EOS], [EOS], [13, 14, 15, 16]]
ROLLOUT: dict[str, Any] = {
    **QUICK,
    "max_new_tokens": 4,
    "max_prompt_length": 16,
}


def make(config_type: Any, trainer_type: Any, output_dir: Path, tokenizer: Any, **options: Any) -> Any:
    """Trainer on `PROMPTS` with four different models."""
    settings = {name: value for name, value in options.items() if name in config_type.__dataclass_fields__}
    models = {name: value for name, value in options.items() if name not in settings}
    return trainer_type(
        tiny_lm(tokenizer, seed=1),
        config_type(str(output_dir), **{**ROLLOUT, "per_device_train_batch_size": 2, **settings}),
        [{"prompt_ids": ids} for ids in PROMPTS],
        None,
        tokenizer,
        **{
            "ref_model": tiny_lm(tokenizer, seed=2),
            "reward_model": tiny_reward_model(tokenizer, seed=3),
            "value_model": tiny_reward_model(tokenizer, seed=4),
            **models,
        },
    )


def collect(trainer: Any) -> dict[str, Tensor]:
    trainer.sample = lambda given, keys: RESPONSES
    return trainer.collect(PROMPTS, [(0, 0, row) for row in range(3)])


def each(function: Any, model: Any, *more: Any) -> list[list[float]]:
    return [function(model, p, r, *more) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
