"""Settings and training functions of the capitals task: start model, reward model, options of the policies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)

from examples.capitals.pairs import Pair
from examples.capitals.task import MISTAKES, draw_countries, noisy_answer, prompt_text
from segkernel.training import PretrainConfig, PretrainTrainer, RewardConfig, RewardTrainer
from segkernel.training.models import ModelArguments, load_reward_model
from segkernel.training.trainer.progress_log import ProgressLog

REWARD_LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Settings:
    """Sizes of one run. All policies share the start model, steps, batch size and the options of DPO's loss."""

    seed: int = 0
    parts: int = 4
    mistakes: tuple[float, ...] = MISTAKES
    hidden_size: int = 64
    start_steps: int = 120
    prompts: int = 16000
    held_out_prompts: int = 1000
    reward_steps: int = 400
    reward_batch_size: int = 128
    policy_pairs: int = 6000
    policy_steps: int = 100
    learning_rate: float = 1e-3
    beta: float = 0.3
    rejected_weight: float = 0.5

    def quick(self) -> Settings:
        """Sizes for a test of the program; too small for a meaningful comparison."""
        return replace(
            self,
            start_steps=80,
            prompts=600,
            held_out_prompts=60,
            reward_steps=10,
            reward_batch_size=32,
            policy_steps=4,
        )


def train_start(output_dir: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Train a small Llama on answers with mistakes; saved in `output_dir`."""
    set_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=2 * settings.hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        # At this width the default 0.02 delays the first useful attention patterns by hundreds of steps.
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    rng = random.Random(settings.seed)
    questions = [draw_countries(rng, settings.parts) for _ in range(128 * settings.start_steps)]
    rows = [{"prompt": prompt_text(q), "completion": noisy_answer(rng, q, settings.mistakes)} for q in questions]
    # Prompt with star, answer and EOS have the same number of tokens in every row: one answer per block.
    arguments = PretrainConfig(
        output_dir=str(output_dir),
        max_length=4 * settings.parts + 2,
        **trainer_options(settings, steps=settings.start_steps, batch_size=128, learning_rate=4e-3),
    )
    model = LlamaForCausalLM(config)
    train_and_save(PretrainTrainer(model, arguments, rows, processing_class=tokenizer))
    return model


def train_reward_model(
    output_dir: Path,
    start: Path,
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
) -> RewardTrainer:
    """Train a reward model from preferences between whole answers; saved in `output_dir`.

    The score of an answer is the sum of the outputs at its tokens, divided by the mean length of all answers.
    """
    set_seed(settings.seed)
    model = load_reward_model(ModelArguments(model=str(start)), tokenizer)
    arguments = RewardConfig(output_dir=str(output_dir), score="mean", **reward_options(settings))
    rows, held_out_rows = ([pair.row(tokenizer) for pair in source] for source in (pairs, held_out))
    trainer = RewardTrainer(model, arguments, rows, held_out_rows, tokenizer)
    train_and_save(trainer)
    return trainer


def reward_options(settings: Settings) -> dict[str, Any]:
    """Trainer options of reward models."""
    return trainer_options(
        settings, steps=settings.reward_steps, batch_size=settings.reward_batch_size, learning_rate=REWARD_LEARNING_RATE
    )


def trainer_options(settings: Settings, *, steps: int, batch_size: int, learning_rate: float) -> dict[str, Any]:
    """Trainer options that all stages share."""
    return {
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 512,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": steps // 10,
        "adam_beta2": 0.98,
        "seed": settings.seed,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        # Reproducible on every machine, and too small to gain from an accelerator.
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }


def train_and_save(trainer: Trainer) -> None:
    """Train without console output and save the model."""
    trainer.remove_callback(ProgressLog)
    trainer.train()
    trainer.save_model()


def load_policy(folder: Path) -> PreTrainedModel:
    """A new copy of the model saved in `folder`."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
