"""Trainers of methods that select tokens, on rows of token ids, and their comparison with transcriptions."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkernel.training import (
    ConfPOConfig,
    ConfPOTrainer,
    DPOConfig,
    DPOTrainer,
    RandomDPOConfig,
    RandomDPOTrainer,
    SePOConfig,
    SePOTrainer,
    SimPOConfig,
    SimPOTrainer,
    TISDPOConfig,
    TISDPOTrainer,
)
from segkernel.training.data.columns import SIDES
from tests.training.trainer_helpers import QUICK, QUICK_PAIRS, tiny_lm

EOS = 1
# Responses of 1 to 12 tokens; the last pair's chosen response is one token, the EOS.
ROWS: list[dict[str, Any]] = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [*range(20, 31), EOS], "rejected_ids": [40, 41, 42, 43, 44, 45, EOS]},
    {"prompt_ids": [8], "chosen_ids": [50, 9, 51, 9, 52], "rejected_ids": [*range(60, 69), EOS]},
    {"prompt_ids": [9, 10], "chosen_ids": [EOS], "rejected_ids": [70, 71, 72, EOS]},
]
SELECTED: dict[str, tuple[type, type]] = {
    "simpo": (SimPOConfig, SimPOTrainer),
    "confpo": (ConfPOConfig, ConfPOTrainer),
    "sepo": (SePOConfig, SePOTrainer),
    "dpo": (DPOConfig, DPOTrainer),
    "random-dpo": (RandomDPOConfig, RandomDPOTrainer),
    "tis-dpo": (TISDPOConfig, TISDPOTrainer),
}


def lm(tokenizer: Any, seed: int) -> Any:
    """Model whose distributions differ from token to token."""
    model = tiny_lm(tokenizer, seed)
    model.lm_head.weight.data *= 20
    return model.eval()


def logprobs_of(model: nn.Module, prompt: list[int], response: list[int]) -> Tensor:
    """log pi(y_t | x, y_<t) of every response token, `[T]`, with a gradient."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return F.log_softmax(logits, dim=-1)[range(len(response)), response]


def make(method: str, directory: Path, tokenizer: Any, rows: Any = ROWS, **options: Any) -> Any:
    """Trainer on `rows`; the policy, its reference and the two DPO models differ."""
    config_type, trainer_type = SELECTED[method]
    teachers = {"sepo": {"dpo_model": 3}, "tis-dpo": {"dpo_model": 3, "reverse_dpo_model": 4}}.get(method, {})
    return trainer_type(
        lm(tokenizer, 1),
        config_type(str(directory), **{**QUICK_PAIRS, **options}),
        rows,
        rows,
        tokenizer,
        ref_model=lm(tokenizer, 2),
        **{name: lm(tokenizer, seed) for name, seed in teachers.items()},
    )


def assert_loss_and_gradient(
    trainer: Any, expected: Callable[[nn.Module, dict[str, Any]], Tensor], rows: list[dict[str, Any]]
) -> dict[str, Tensor]:
    """Compare the losses of the pairs and the gradient of their sum with a transcription; returns the metrics."""
    plain = copy.deepcopy(trainer.model)
    trainer.model.zero_grad()
    losses, metrics = trainer.pair_losses(trainer.model, trainer.data_collator(trainer.train_dataset))
    by_hand = torch.stack([expected(plain, row) for row in rows])
    torch.testing.assert_close(losses, by_hand, rtol=1e-4, atol=1e-6)
    losses.sum().backward()
    by_hand.sum().backward()
    for (name, found), (_, wanted) in zip(trainer.model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert max(float(p.grad.abs().max()) for p in plain.parameters()) > 1e-3
    found_metrics: dict[str, Tensor] = metrics
    return found_metrics


def whole_rewards(row: dict[str, Any], beta: float, models: tuple[nn.Module, nn.Module]) -> list[float]:
    """Implicit rewards of both whole responses."""
    with torch.no_grad():
        pairs = [
            [logprobs_of(model, row["prompt_ids"], row[f"{side}_ids"]).sum() for model in models] for side in SIDES
        ]
    return [beta * float(policy - reference) for policy, reference in pairs]


PROMPTS = [[5, 6, 7], [8], [9, 10]]
RESPONSES = [[11, 12, 21, 22, 23, EOS], [EOS], [13, 14, 15, 16]]
SAMPLED: dict[str, Any] = {**QUICK, "max_new_tokens": 6, "max_prompt_length": 16}


def token_scores(batch: dict[str, Tensor]) -> Tensor:
    """Scores that go up and down within a response."""
    return ((batch["input_ids"] % 7 - 3.0) * batch["response_mask"]).cumsum(1) / 3


def rft(config_type: Any, trainer_type: Any, directory: Path, tokenizer: Any, **options: Any) -> Any:
    """Trainer of rejection sampling that accepts `RESPONSES`."""
    models = {name: options.pop(name) for name in ("ref_model",) if name in options}

    class Answered(trainer_type):
        def sample(self, *args: Any, **kwargs: Any) -> list[list[int]]:
            return RESPONSES

    config = config_type(str(directory), **{**SAMPLED, "samples": 1, **options})
    rows = [{"prompt_ids": ids} for ids in PROMPTS]
    return Answered(lm(tokenizer, 1), config, rows, None, tokenizer, reward_model=token_scores, **models)


def ppo(config_type: Any, trainer_type: Any, directory: Path, tokenizer: Any, **options: Any) -> Any:
    rows = [{"prompt_ids": ids} for ids in PROMPTS]
    config = config_type(str(directory), **{**SAMPLED, "per_device_train_batch_size": 3, **options})
    trainer = trainer_type(
        lm(tokenizer, 1), config, rows, None, tokenizer, ref_model=lm(tokenizer, 2), reward_model=token_scores
    )
    trainer.sample = lambda prompts, keys: RESPONSES
    return trainer
