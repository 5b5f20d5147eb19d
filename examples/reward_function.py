"""A reward function of your own with a trainer: rejection sampling on the segments that the function rewards.

Run: `python -m examples.reward_function`. The function scores texts. The trainer calls it with every prefix of the
responses, so a token's reward is how much it changes the score: here a word earns or costs a point. The model is random
and tiny.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from segkernel.training import ASRRFTConfig, ASRRFTTrainer

WORDS = ["<end>", "<pad>", "say", "yes", "no", "maybe", "perhaps", "later"]


def reward(prompts: list[str], responses: list[str]) -> list[float]:
    """One score per response: its number of "yes" minus its number of "no"."""
    return [float(response.count("yes") - response.count("no")) for response in responses]


def tiny_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random model of eight words, and its tokenizer."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    sizes: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), eos_token_id=0, pad_token_id=1, **sizes)), tokenizer


def share_of_yes(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of "yes" among the "yes" and "no" of 256 samples."""
    torch.manual_seed(0)
    prompt = torch.tensor([WORDS.index("say")]).repeat(256, 1)
    generate: Any = model.generate  # transformers annotates it as a tensor
    texts = tokenizer.batch_decode(generate(prompt, do_sample=True, top_k=0, max_new_tokens=8))
    yes, no = (sum(text.count(word) for text in texts) for word in ("yes", "no"))
    return yes / (yes + no)


def main() -> tuple[float, float]:
    """Returns the share of "yes" before and after training."""
    model, tokenizer = tiny_model()
    before = share_of_yes(model, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ASRRFTConfig(
            output_dir=folder,
            samples=8,
            max_new_tokens=8,
            max_prompt_length=8,
            threshold_unit="reward",
            baseline="0",
            learning_rate=1e-2,
            per_device_eval_batch_size=64,
            num_train_epochs=2,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        prompts = Dataset.from_dict({"prompt": ["say"] * 64})
        ASRRFTTrainer(model, arguments, prompts, processing_class=tokenizer, reward_model=reward).train()
    after = share_of_yes(model, tokenizer)
    print(f'share of "yes": {100 * before:.0f} % -> {100 * after:.0f} %')
    return before, after


if __name__ == "__main__":
    main()
