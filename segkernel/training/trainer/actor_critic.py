"""Policy and value model as one module, so that one Trainer, one optimizer and one checkpoint hold both."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from segkernel.training.models import value_model_like
from segkernel.training.models.adapter_files import load_adapter_weights, save_merged, write_card
from segkernel.training.models.adapters import (
    config_for_body,
    copy_with_shared_base,
    copy_with_shared_weights,
    has_adapter,
    train_adapter,
    with_adapter,
    with_adapter_like,
)
from segkernel.training.trainer.batches import model_logits
from segkernel.training.trainer.response_logits import response_logits

if TYPE_CHECKING:
    from peft import PeftConfig

VALUE = "value"  # folder of the value model, next to the policy's files


class ActorCritic(nn.Module):
    """`policy` (a causal LM) and `value` (one output per token), without shared weights."""

    def __init__(self, policy: PreTrainedModel, value: PreTrainedModel) -> None:
        super().__init__()
        self.policy = policy
        self.value = value
        # Layers that FSDP shards one by one.
        self._no_split_modules = sorted({*(policy._no_split_modules or ()), *(value._no_split_modules or ())})

    def forward(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, V]` that predict the response tokens, and values `[B, T]` of prefixes that end at `t`."""
        return response_logits(self.policy, batch), model_logits(self.value, batch)[..., 0].float()

    def generate(self, **options: Any) -> Any:
        """`generate` of the policy."""
        return self.policy.generate(**options)  # type: ignore[operator]  # typed as a tensor

    @property
    def generation_config(self) -> GenerationConfig:
        return self.policy.generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self.policy.generation_config = config

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.policy.gradient_checkpointing_enable(**options)
        self.value.gradient_checkpointing_enable(**options)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Name of `gradient_checkpointing_enable` since transformers 5.24."""
        for model in (self.policy, self.value):
            model.activation_checkpointing_enable(**options)

    def save_pretrained(self, directory: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Save the policy in `directory`, as any language model, and the value model in its folder `value`."""
        for name, model, folder in (
            ("policy", self.policy, Path(directory)),
            ("value", self.value, Path(directory) / VALUE),
        ):
            own = None
            if state_dict is not None:
                own = {k.removeprefix(f"{name}."): v for k, v in state_dict.items() if k.startswith(f"{name}.")}
            write_card(folder, model)
            model.save_pretrained(folder, state_dict=own)

    def save_merged(self, directory: str | Path) -> None:
        """Save both as `save_pretrained` does, with their adapters merged into their weights."""
        for model, folder in ((self.policy, Path(directory)), (self.value, Path(directory) / VALUE)):
            if has_adapter(model):
                save_merged(model, folder)

    def load_pretrained(self, directory: str | Path) -> None:
        """Load the weights from a directory written by `save_pretrained`."""
        for model, folder in ((self.policy, Path(directory)), (self.value, Path(directory) / VALUE)):
            if has_adapter(model):
                load_adapter_weights(model, folder)
                continue
            saved = type(model).from_pretrained(folder, dtype=model.dtype)
            model.load_state_dict(saved.state_dict())


def actor_critic(
    policy: Any,
    value: Any,
    reward_model: Any,
    peft_config: "PeftConfig | None" = None,
) -> ActorCritic:
    """Policy and value model to train, with new adapters if `peft_config` is given.

    Args:
        policy: causal language model.
        value: model with one output per token; default: see `default_value_model`. Frozen layers of a model that is
            trained in part stay frozen.
        reward_model: model with one output per token, or a function.
        peft_config: config of new adapters; a `value` with an adapter keeps it.
    """
    if peft_config is not None:
        policy = with_adapter(policy, peft_config)
    if value is None:
        value = default_value_model(policy, reward_model)
    elif peft_config is not None and not has_adapter(value):
        value = with_adapter(value, peft_config)
    return ActorCritic(policy, trainable_value_model(value))


def trainable_value_model(value: Any) -> Any:
    """A value model ready to train: its adapter or, without one, the weights that it trains; all if it trains none."""
    if not has_adapter(value) and any(parameter.requires_grad for parameter in value.parameters()):
        return value
    return train_adapter(value)


def default_value_model(policy: Any, reward_model: Any) -> Any:
    """Value model that starts as a copy of the reward model or, if that is a function, as the policy with a new head.

    With an adapter on the policy, the value model has one as well, and shares the frozen weights of its original.
    """
    if has_adapter(reward_model):
        return copy_with_shared_base(reward_model)
    scores = isinstance(reward_model, PreTrainedModel)
    if not has_adapter(policy):
        return copy.deepcopy(reward_model) if scores else value_model_like(policy)
    if scores:
        return with_adapter(shared := copy_with_shared_weights(reward_model), config_for_body(policy, shared))
    return value_adapter_like(policy)


def value_adapter_like(policy: Any) -> Any:
    """Value model on the policy's frozen weights, with a copy of its adapter and a new head whose output is 0."""
    plain: Any = copy_with_shared_weights(policy).unload()
    body: Any = plain.base_model
    value = value_model_like(plain)
    for name, parameter in body.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(value.base_model.get_submodule(owner), leaf, parameter)
    return with_adapter_like(policy, value)
