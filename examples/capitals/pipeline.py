"""The stages of the main job: start model, preferences, reward model, the two policies."""

from __future__ import annotations

import json
import random
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
    ProgressCallback,
    Trainer,
    set_seed,
)

from examples.capitals.pairs import Pair, sample_pairs
from examples.capitals.task import MISTAKES, draw_countries, make_tokenizer, noisy_answer, prompt_text
from segkernel.training import (
    ASRDPOConfig,
    ASRDPOTrainer,
    DPOConfig,
    DPOTrainer,
    PretrainConfig,
    PretrainTrainer,
    RewardConfig,
    RewardTrainer,
)
from segkernel.training.models import ModelArguments, load_reward_model

REWARD_LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Settings:
    """Sizes of the job. Both policies get the same start, pairs, steps, batches, learning rate and beta."""

    seed: int = 0
    parts: int = 4
    key: bool = False
    mistakes: tuple[float, ...] = MISTAKES
    hidden_size: int = 64
    start_steps: int = 120
    prompts: int = 8000
    held_out_prompts: int = 1000
    reward_steps: int = 400
    reward_batch_size: int = 128
    policy_steps: int = 100
    learning_rate: float = 1e-3
    beta: float = 0.3

    def quick(self) -> Settings:
        """Small enough for a test; too small for the comparison to mean anything."""
        return replace(self, start_steps=80, prompts=300, held_out_prompts=100, reward_steps=20, policy_steps=8)


@dataclass(frozen=True)
class Policies:
    """The models to compare, and what they were trained and tested on."""

    tokenizer: PreTrainedTokenizerBase
    start: PreTrainedModel
    dpo: PreTrainedModel
    segment_dpo: PreTrainedModel
    dpo_trainer: DPOTrainer
    segment_trainer: ASRDPOTrainer
    held_out: list[Pair]
    reward_accuracy: float


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar with the loss beside it, in place of a printed line per log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def run_stages(folder: Path, settings: Settings) -> Policies:
    """Run every stage into `folder`, which must be new."""
    tokenizer = make_tokenizer()
    say("1/4  start model: supervised on answers with mistakes")
    start = train_start(folder / "start", settings, tokenizer)
    say("2/4  preferences: answers of the start model, judged by the verifier")
    first = settings.seed * 1000
    train = sample_pairs(
        start, tokenizer, settings.prompts, parts=settings.parts, seed=first + 1, description="training answers"
    )
    held_out = sample_pairs(
        start,
        tokenizer,
        settings.held_out_prompts,
        parts=settings.parts,
        seed=first + 2,
        description="held-out answers",
    )
    write_preferences(folder / "preferences.jsonl", train)
    rows, held_out_rows = ([pair.row(tokenizer) for pair in pairs] for pairs in (train, held_out))
    say(f"3/4  reward model: Bradley-Terry on {len(rows)} preferences between whole answers")
    reward = train_reward_model(folder / "reward", folder / "start", settings, tokenizer, rows, held_out_rows)
    say(f"4/4  DPO, then segment-masked DPO, from the same start on the same {len(rows)} pairs")
    options = policy_options(settings)
    dpo, segment_dpo = clone(folder / "start"), clone(folder / "start")
    dpo_trainer = DPOTrainer(dpo, DPOConfig(output_dir=str(folder / "dpo"), **options), rows, held_out_rows, tokenizer)
    train_quietly(dpo_trainer)
    segment_trainer = ASRDPOTrainer(
        segment_dpo,
        ASRDPOConfig(output_dir=str(folder / "asr-dpo"), baseline="0", delta=0.5, **options),
        rows,
        held_out_rows,
        tokenizer,
        reward_model=reward.model,
    )
    train_quietly(segment_trainer)
    accuracy = reward.evaluate()["eval_accuracy"]
    return Policies(tokenizer, start, dpo, segment_dpo, dpo_trainer, segment_trainer, held_out, accuracy)


def train_start(output_dir: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A small Llama that has learnt the task, mistakes included."""
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
        # At this width the usual 0.02 leaves the first attention patterns to chance for hundreds of steps.
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    rng = random.Random(settings.seed)
    questions = [draw_countries(rng, settings.parts, key=settings.key) for _ in range(128 * settings.start_steps)]
    rows = [{"prompt": prompt_text(q), "completion": noisy_answer(rng, q, settings.mistakes)} for q in questions]
    # Prompt, answer and EOS have the same number of tokens in every row: one answer per block.
    arguments = PretrainConfig(
        output_dir=str(output_dir),
        max_length=4 * settings.parts + settings.key + 1,
        **trainer_options(settings, steps=settings.start_steps, batch_size=128, learning_rate=4e-3),
    )
    model = LlamaForCausalLM(config)
    train_quietly(PretrainTrainer(model, arguments, rows, processing_class=tokenizer))
    return model


def train_reward_model(
    output_dir: Path,
    start: Path,
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
) -> RewardTrainer:
    """The reward model knows nothing but which of two whole answers was preferred."""
    set_seed(settings.seed)
    model = load_reward_model(ModelArguments(model=str(start)), tokenizer)
    options = trainer_options(
        settings, steps=settings.reward_steps, batch_size=settings.reward_batch_size, learning_rate=REWARD_LEARNING_RATE
    )
    arguments = RewardConfig(output_dir=str(output_dir), **options)
    trainer = RewardTrainer(model, arguments, rows, held_out, tokenizer)
    train_quietly(trainer)
    return trainer


def policy_options(settings: Settings) -> dict[str, Any]:
    """One budget for both policies."""
    options = trainer_options(
        settings, steps=settings.policy_steps, batch_size=64, learning_rate=settings.learning_rate
    )
    return {**options, "beta": settings.beta, "eval_strategy": "steps", "eval_steps": 0.25}


def trainer_options(settings: Settings, *, steps: int, batch_size: int, learning_rate: float) -> dict[str, Any]:
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
        # The same result on every machine, and nothing here is large enough for an accelerator.
        "use_cpu": True,
    }


def train_quietly(trainer: Trainer) -> None:
    """Train and save the model."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(QuietProgress)
    trainer.train()
    trainer.save_model()


def clone(folder: Path) -> PreTrainedModel:
    """The model that was saved there, afresh."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def write_preferences(path: Path, pairs: list[Pair]) -> None:
    """The pairs as `segkernel train` and `segkernel inspect` read them."""
    rows = [{"prompt": prompt_text(p.countries), "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def say(text: str) -> None:
    print(f"\n{text}", flush=True)
