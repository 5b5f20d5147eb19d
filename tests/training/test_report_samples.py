"""Report samples of rollouts and of rejection sampling, from hand-made values with poisoned padding."""

import math

import pytest
import torch

from segkernel.training import ASRDPOConfig, PPOConfig, RFTConfig, RFTTrainer
from segkernel.training.data.columns import RESPONSES
from segkernel.training.data.tables import to_dataset
from segkernel.training.models import train_tokenizer
from segkernel.training.report_examples import best_and_worst, rollout_samples, scored_samples
from tests.training.trainer_helpers import prompts, tiny_lm, tiny_tokenizer

NAN, POISON = math.nan, 999.0


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a"], vocab_size=258)


def ids_of(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_rollout_samples_read_responses_without_padding(tokenizer):
    q, w, y, z = (ids_of(tokenizer, letter)[0] for letter in "qwyz")
    pad = tokenizer.pad_token_id
    no, yes = False, True
    rollout = {
        "input_ids": torch.tensor([[pad, q, y, z], [q, w, y, pad], [q, z, z, z]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
        # The third response has scores that are not finite.
        "response_mask": torch.tensor([[no, no, yes, yes], [no, no, yes, no], [no] * 4]),
        "policy_mask": torch.tensor([[no, no, yes, no], [no, no, yes, no], [no] * 4]),
        "token_rewards": torch.tensor([[POISON, POISON, 0.25, -1.0], [NAN, NAN, 0.5, NAN], [NAN] * 4]),
        "advantages": torch.tensor([[NAN, NAN, 1.5, -0.5], [NAN, NAN, 2.0, POISON], [NAN] * 4]),
        "sequence_rewards": torch.tensor([-0.75, 0.5, NAN]),
    }
    best, worst = rollout_samples(rollout, 6, tokenizer)
    assert (best.prompt, best.label, best.tokens, best.score) == ("qw", "best", ["y"], 0.5)
    assert (best.token_rewards, best.advantages, best.kept) == ([0.5], [2.0], None)
    assert (worst.prompt, worst.label, worst.tokens, worst.score) == ("q", "worst", ["y", "z"], -0.75)
    assert (worst.token_rewards, worst.advantages, worst.kept) == ([0.25, -1.0], [1.5, -0.5], [True, False])


@pytest.mark.parametrize(
    ("config", "name"),
    [(RFTConfig, "report_responses"), (PPOConfig, "report_responses"), (ASRDPOConfig, "report_pairs")],
)
def test_negative_number_of_reported_responses_is_refused(config, name, tmp_path):
    with pytest.raises(ValueError, match=rf"^{name}: expected >= 0, got -1$"):
        config(output_dir=str(tmp_path), use_cpu=True, **{name: -1})
    assert getattr(config(output_dir=str(tmp_path), use_cpu=True, **{name: 0}), name) == 0


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, [("p", "best", 2.0), ("p", "worst", -1.0)]),
        (3, [("p", "best", 2.0), ("p", "worst", -1.0), ("q", "best", 0.5)]),
        # Equal rewards have no worst sample.
        (9, [("p", "best", 2.0), ("p", "worst", -1.0), ("q", "best", 0.5)]),
        (0, []),
    ],
)
def test_samples_of_a_prompt_are_its_best_and_its_worst(count, expected, tokenizer):
    rows = [
        {
            "prompt_index": prompt,
            "prompt_ids": ids_of(tokenizer, "pq"[prompt]),
            "response_ids": ids_of(tokenizer, "yz"),
            "reward": reward,
            "token_rewards": [reward, 0.0],
        }
        for prompt, reward in [(0, 1.0), (0, -1.0), (0, 2.0), (1, 0.5), (1, 0.5)]
    ]
    samples = scored_samples(best_and_worst(to_dataset(rows, RESPONSES, "samples"), count), tokenizer)
    assert [(sample.prompt, sample.label, sample.score) for sample in samples] == expected
    assert all(sample.token_rewards == [sample.score, 0.0] for sample in samples)
    assert all(sample.tokens == ["y", "z"] for sample in samples)


@pytest.mark.parametrize("count", [0, 2])
def test_rft_report_of_a_whole_response_function_rewards_the_last_token(count, tmp_path):
    tokenizer = tiny_tokenizer()
    config = RFTConfig(
        output_dir=str(tmp_path),
        samples=2,
        max_new_tokens=3,
        max_prompt_length=40,
        report_responses=count,
        use_cpu=True,
        disable_tqdm=True,
    )
    lengths = iter(range(100))
    trainer = RFTTrainer(
        tiny_lm(tokenizer),
        config,
        prompts(2),
        processing_class=tokenizer,
        reward_model=lambda prompts, responses: [float(next(lengths) % 7) for _ in responses],
    )
    shown = trainer.report_examples()
    assert [sample.label for sample in shown] == ["best", "worst"][:count]
    assert all(sample.token_rewards[:-1] == [0.0] * (len(sample.tokens) - 1) for sample in shown)
