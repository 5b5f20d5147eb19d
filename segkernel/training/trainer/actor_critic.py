"""Policy and value model as one module, so that one Trainer, one optimizer and one checkpoint hold both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from segkernel.training.trainer.batches import model_logits

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
        """Logits `[B, T, V]`, which predict token `t + 1` at `t`, and values `[B, T]` of prefixes that end at `t`."""
        return model_logits(self.policy, batch), model_logits(self.value, batch)[..., 0].float()

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

    def save_pretrained(self, directory: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Save the policy in `directory`, as any language model, and the value model in its folder `value`."""
        for name, model, folder in (
            ("policy", self.policy, Path(directory)),
            ("value", self.value, Path(directory) / VALUE),
        ):
            own = None
            if state_dict is not None:
                own = {k.removeprefix(f"{name}."): v for k, v in state_dict.items() if k.startswith(f"{name}.")}
            model.save_pretrained(folder, state_dict=own)

    def load_pretrained(self, directory: str | Path) -> None:
        """Load the weights from a directory written by `save_pretrained`."""
        for model, folder in ((self.policy, Path(directory)), (self.value, Path(directory) / VALUE)):
            saved = type(model).from_pretrained(folder, dtype=model.dtype)
            model.load_state_dict(saved.state_dict())
