"""A tiny language, and tiny models of it."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification, PreTrainedTokenizerFast

from segkernel.models import train_tokenizer

WORDS = ("red", "blue", "green", "white", "black")


def pairs(count: int = 12) -> list[dict[str, Any]]:
    """`chosen` repeats the prompt's word, `rejected` says another one; lengths differ."""
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


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_files(directory: Path, count: int = 12) -> dict[str, str]:
    """A text file, a preference file, and models to start from; `out` is for what is trained."""
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
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        **options,
    )


def tiny_lm(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config(tokenizer))


def tiny_reward_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForTokenClassification:
    torch.manual_seed(seed)
    return LlamaForTokenClassification(tiny_config(tokenizer, num_labels=1, classifier_dropout=0.0))
