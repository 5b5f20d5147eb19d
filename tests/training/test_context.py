"""Options for lengths and the context lengths of models: lowered defaults, refused values."""

import logging
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
    XLNetConfig,
)

from segkernel.training import (
    AlignDistilConfig,
    AlignDistilTrainer,
    ASRDPOConfig,
    ASRDPOTrainer,
    DPOConfig,
    DPOTrainer,
    PPOConfig,
    PPOTrainer,
    PretrainConfig,
    PretrainTrainer,
    RewardConfig,
    RewardTrainer,
    RFTConfig,
    RFTTrainer,
    SegmentRewardConfig,
    SegmentRewardTrainer,
)
from segkernel.training.models.context import context_length, fit_length
from segkernel.training.rewards.implicit import ImplicitRewardScorer
from segkernel.training.sampling import SamplingOptions
from tests.training.trainer_helpers import QUICK, pairs, prompts, tiny_lm, tiny_reward_model


class Configured(nn.Module):
    """Module with only a config."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config


def model_of(context: int) -> nn.Module:
    return Configured(LlamaConfig(max_position_embeddings=context))


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (LlamaConfig(max_position_embeddings=96), 96),
        (GPT2Config(n_positions=64), 64),
        (OPTConfig(max_position_embeddings=48), 48),
        (Gemma3Config(text_config={"max_position_embeddings": 80}), 80),
        (MambaConfig(), None),
        (MptConfig(), None),
        (BloomConfig(), None),
        (XLNetConfig(), None),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_context_length_by_the_config_of_the_architecture(config: Any, context: int | None) -> None:
    assert context_length(Configured(config)) == context
    assert context_length(nn.DataParallel(Configured(config))) == context


def test_length_fits_the_shortest_context_of_models_and_scorers(caplog: pytest.LogCaptureFixture) -> None:
    scorer = ImplicitRewardScorer(model_of(700), model_of(300))
    models = {"model": model_of(400), "reward_model": scorer, "ref_model": None, "function": len}
    assert fit_length("max_length", None, 200, models) == 200
    assert caplog.messages == []
    assert fit_length("max_length", None, 512, models) == 300
    assert caplog.messages == ["max_length: 300 tokens, the context of the reward model; the default is 512"]
    assert fit_length("max_length", 300, 512, models) == 300
    with pytest.raises(
        ValueError, match=r"^max_length: expected at most 300 tokens, the context of the reward model, got"
    ):
        fit_length("max_length", 301, 512, models)
    assert fit_length("max_length", 10**6, 512, {"model": nn.Linear(2, 2), "ref_model": None}) == 10**6


@pytest.mark.parametrize(
    ("context", "given", "fitted"),
    [
        (None, {}, (128, 384)),
        (2048, {}, (128, 384)),
        (512, {}, (128, 384)),
        (500, {}, (125, 375)),
        (64, {}, (16, 48)),
        (2, {}, (1, 1)),
        (64, {"max_new_tokens": 40}, (40, 24)),
        (64, {"max_prompt_length": 60}, (4, 60)),
        (64, {"max_prompt_length": 32, "max_new_tokens": 32}, (32, 32)),
        (None, {"max_new_tokens": 5000}, (5000, 384)),
    ],
)
def test_sampling_lengths_fit_the_context(
    context: int | None, given: dict[str, int], fitted: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    options = SamplingOptions(**given)
    with caplog.at_level(logging.WARNING):
        options.fit_context({"model": nn.Linear(1, 1) if context is None else model_of(context)})
    assert (options.max_new_tokens, options.max_prompt_length) == fitted
    defaults = {"max_new_tokens": 128, "max_prompt_length": 384}
    lowered = [name for name in defaults if name not in given and getattr(options, name) < defaults[name]]
    assert [message.split(":")[0] for message in caplog.messages] == lowered


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 64}, "max_new_tokens: expected at most 63 tokens, one less than the context of the model"),
        ({"max_prompt_length": 99}, "max_prompt_length: expected at most 63 tokens, one less than the context of the"),
        (
            {"max_new_tokens": 33, "max_prompt_length": 32},
            r"max_prompt_length \+ max_new_tokens: expected at most 64 tokens, the context of the model, "
            r"got 32 \+ 33 = 65",
        ),
    ],
)
def test_sampling_lengths_beyond_the_context_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**given).fit_context({"model": model_of(64)})


# Class of the config and of the trainer, the kind of the trained model, and the other models.
TRAINERS: dict[str, Any] = {
    "dpo": (DPOConfig, DPOTrainer, "lm", ()),
    "asr-dpo": (ASRDPOConfig, ASRDPOTrainer, "lm", ("reward_model",)),
    "aligndistil": (AlignDistilConfig, AlignDistilTrainer, "lm", ("dpo_model", "reverse_dpo_model")),
    "reward": (RewardConfig, RewardTrainer, "reward", ()),
    "segment-reward": (SegmentRewardConfig, SegmentRewardTrainer, "reward", ("ref_model",)),
    "pretrain": (PretrainConfig, PretrainTrainer, "lm", ()),
    "ppo": (PPOConfig, PPOTrainer, "lm", ("reward_model",)),
    "rft": (RFTConfig, RFTTrainer, "lm", ("reward_model",)),
}


@pytest.mark.parametrize("method", TRAINERS)
def test_trainer_fits_its_lengths_to_the_models_before_any_work(
    method: str, tokenizer: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_class, trainer_class, kind, others = TRAINERS[method]
    sampled = method in ("ppo", "rft")
    makers = {"lm": tiny_lm, "reward": tiny_reward_model}
    model = makers[kind](tokenizer, seed=1)
    more = {name: makers["reward" if name == "reward_model" else "lm"](tokenizer, seed=2) for name in others}
    # The shortest context, of 60 tokens, is that of the other model where there is one.
    last = [*more.values(), model][0]
    last.config.max_position_embeddings = 60
    shortest = f"the {others[0].replace('_', ' ')}" if others else "the model"
    rows = prompts(8) if sampled else pairs(8)
    if method == "pretrain":
        rows = [{"text": row["prompt"] + row["chosen"]} for row in rows]
    option = "max_new_tokens" if sampled else "max_length"

    def make(**options: Any) -> Any:
        config = config_class(str(tmp_path), **{**QUICK, **options})
        return trainer_class(model, config, rows, None, processing_class=tokenizer, **more)

    read: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__call__", lambda *args, **kwargs: read.append(args))
        with pytest.raises(ValueError, match=rf"^{option}: expected at most .* the context of {shortest}, got 61$"):
            make(**{option: 61})
    assert read == []
    with caplog.at_level(logging.WARNING), torch.no_grad():
        trainer = make()
    said = [message for message in caplog.messages if f"the context of {shortest}" in message or "to fit" in message]
    assert len(said) == (2 if sampled else 1)
    if sampled:
        assert (trainer.args.max_new_tokens, trainer.args.max_prompt_length) == (15, 45)
    else:
        assert trainer.args.max_length == 60
