"""Rows of a tiny language, tiny models of it, and assertions about runs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
)

from segkernel.training.models import train_tokenizer

WORDS = ("red", "blue", "green", "white", "black")

QUICK: dict[str, Any] = {
    "use_cpu": True,
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "dataloader_pin_memory": False,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 1,
    "num_train_epochs": 2,
    "seed": 7,
}
QUICK_PAIRS: dict[str, Any] = {**QUICK, "max_length": 64}


def pairs(count: int = 12) -> list[dict[str, Any]]:
    """Preference pairs: `chosen` repeats the prompt's word, `rejected` another one; lengths differ."""
    rows = []
    for index in range(count):
        word, other = WORDS[index % 5], WORDS[(index + 1 + index // 5) % 5]
        rows.append(
            {
                "prompt": f"say {word} {index}:",
                "chosen": " ".join([word] * (2 + index % 3)),
                "rejected": " ".join([other] * (3 - index % 2)),
            }
        )
    return rows


def prompts(count: int = 12) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"]} for row in pairs(count)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_files(directory: Path, count: int = 12) -> dict[str, str]:
    """Paths of a text file, a preference file and models to start from; `out` is for the run's output."""
    tokenizer = tiny_tokenizer()
    for name, model in (("lm", tiny_lm(tokenizer)), ("rm", tiny_reward_model(tokenizer))):
        model.save_pretrained(directory / name)
        tokenizer.save_pretrained(directory / name)
    texts = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs(count)]
    return {
        "texts": str(write_jsonl(directory / "texts.jsonl", texts)),
        "preferences": str(write_jsonl(directory / "pairs.jsonl", pairs(count))),
        "lm": str(directory / "lm"),
        "rm": str(directory / "rm"),
        "out": str(directory / "out"),
    }


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([text for row in pairs() for text in row.values()], vocab_size=280)


def tiny_config(tokenizer: PreTrainedTokenizerFast, **options: Any) -> LlamaConfig:
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return LlamaConfig(**{**settings, **options})


def tiny_lm(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config(tokenizer))


def tiny_reward_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForTokenClassification:
    torch.manual_seed(seed)
    return LlamaForTokenClassification(tiny_config(tokenizer, num_labels=1, classifier_dropout=0.0))


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_same_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    """The same names and the same bytes: -0.0 differs from 0.0."""
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        one, other = (tensor.detach().flatten().view(torch.uint8) for tensor in (left[name], right[name]))
        assert torch.equal(one, other), name


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def assert_resumes_to_the_same_bits(make_trainer: Callable[..., Trainer], directory: Path) -> None:
    """A run cut off in its second epoch and resumed ends on the same weights.

    `make_trainer(output_dir, **settings)` returns a new trainer.
    """
    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2, "learning_rate": 1e-3}
    whole = make_trainer(directory / "whole", **options)
    start = weights(whole)
    whole.train()
    assert any(not torch.equal(start[name], value) for name, value in weights(whole).items())

    # One step past a checkpoint.
    interrupted = make_trainer(directory / "cut", **options)
    stop = whole.state.max_steps - 1
    stop -= 1 - stop % 2
    interrupted.add_callback(StopAt(stop))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    assert (directory / "cut" / f"checkpoint-{stop - 1}").is_dir()

    resumed = make_trainer(directory / "cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step
    assert_same_bits(weights(whole), weights(resumed))
