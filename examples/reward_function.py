"""A reward function of your own with a trainer: rejection sampling on the segments that the function rewards.

Run: `python -m examples.reward_function`. A reward function maps a batch to the score of every prefix, so a token's
reward is how much it changes the score. Here a word earns or costs a point. The model is random and tiny.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from segkernel.training import ASRRFTConfig, ASRRFTTrainer

GOOD, BAD = "yes", "no"
POINTS = {GOOD: 1.0, BAD: -1.0}
WORDS = ["<end>", "<pad>", "say", GOOD, BAD, "maybe", "perhaps", "later"]


class WordScorer:
    """Score of every prefix: its number of good words minus its number of bad words."""

    def __init__(self, points: dict[int, float], vocabulary: int) -> None:
        self.points = torch.tensor([points.get(token, 0.0) for token in range(vocabulary)])

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """`input_ids` and `response_mask` [B, T] -> scores [B, T]."""
        return (self.points[batch["input_ids"]] * batch["response_mask"]).cumsum(1)


def share_of_good_words(model: PreTrainedModel, prompt: Tensor, good: int, bad: int) -> float:
    """Share of good words among the good and bad words of 256 samples."""
    torch.manual_seed(0)
    generate: Any = model.generate  # transformers annotates it as a tensor
    samples: Tensor = generate(prompt.repeat(256, 1), do_sample=True, top_k=0, max_new_tokens=8)
    return ((samples == good).sum() / ((samples == good) | (samples == bad)).sum()).item()


def main() -> tuple[float, float]:
    """Returns the share of good words before and after training."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    points = {WORDS.index(word): value for word, value in POINTS.items()}
    prompt = torch.tensor([WORDS.index("say")])
    before = share_of_good_words(model, prompt, *points)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ASRRFTConfig(
            output_dir=folder,
            samples=8,
            max_new_tokens=8,
            baseline="0",
            learning_rate=1e-2,
            num_train_epochs=2,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        scorer = WordScorer(points, len(tokenizer))
        prompts = [{"prompt": "say"} for _ in range(64)]
        ASRRFTTrainer(model, arguments, prompts, processing_class=tokenizer, reward_model=scorer).train()
    after = share_of_good_words(model, prompt, *points)
    print(f"share of good words: {100 * before:.0f} % -> {100 * after:.0f} %")
    return before, after


if __name__ == "__main__":
    main()
