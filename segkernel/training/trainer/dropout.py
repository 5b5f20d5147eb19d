"""Dropout rates of a model set to 0, so that it computes in training what it computes in evaluation."""

import copy
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout rate of a model to 0, in place.

    Rates are the `p` of dropout modules (LoRA's among them), and float attributes that modules read in `forward`
    (`attention_dropout`, `layerdrop`, `drop_prob`, `jitter_noise`, ...). The configs of `PreTrainedModel`s, which are
    saved with them, keep their values: submodules that read rates from the config get a copy of it with zeros.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
        >>> disable_dropout(model)
        >>> model[1].p
        0.0
    """
    pretrained = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    inner = {part for module in pretrained for part in module.modules() if part is not module}
    copies: dict[int, PretrainedConfig] = {}
    module: Any  # torch types its attributes as tensors and modules
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _zero_rates(module)
        config = getattr(module, "config", None)
        if module in inner and isinstance(config, PretrainedConfig):
            if id(config) not in copies:
                copies[id(config)] = copy.copy(config)
                _zero_rates(copies[id(config)])
            module.config = copies[id(config)]


def _zero_rates(owner: object) -> None:
    for name, value in vars(owner).items():
        if ("drop" in name or name.endswith("jitter_noise")) and isinstance(value, float):
            setattr(owner, name, 0.0)
