"""Reward models that are a head on the first layers of a language model, which stay frozen.

Preferences between whole responses do not say which tokens earned them. A deep model can spread a response's score over
tokens that only announce or follow a mistake; the output of a low layer says more about the token itself.
"""

from typing import Any

import torch
from torch import Tensor, nn

from segkernel.training.models.forward import innermost
from segkernel.training.models.scalar_head import body_of

__all__ = ["keep_first_layers"]

# Names that architectures of transformers give to the norm after their last layer.
LAST_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


def keep_first_layers(model: nn.Module, count: int) -> None:
    """Drop all layers after the first `count`, and freeze everything but the last norm and the head.

    If layers are dropped, the norm starts with neutral weights: the pretrained ones are fitted to the last layer.

    Args:
        model: a model with a scalar head (`load_reward_model`), changed in place.
        count: number of layers to keep, from 1 to those that it has.

    Raises:
        ValueError: it has fewer layers or an adapter, or is built in another way than a list of layers and a norm.
    """
    if innermost(model) is not model:
        raise ValueError("layers: expected a model without an adapter, whose weights would be frozen, got one with it")
    body, config = body_of(model), getattr(model, "config", None)
    parent, layers = layers_of(body, getattr(config, "num_hidden_layers", None))
    norms = [norm for name in LAST_NORMS if isinstance(norm := getattr(parent, name, None), nn.Module)]
    if len(norms) != 1:
        raise ValueError(f"layers: expected one norm after the layers, got {len(norms)} in {type(body).__name__}")
    if not 1 <= count <= len(layers):
        raise ValueError(f"layers: expected from 1 to {len(layers)}, the layers of the model, got {count}")
    if count < len(layers):
        shorten_config(config, count)
        del layers[count:]
        reset_norm(norms[0])
    inside = {id(weight) for weight in body.parameters()} - {id(weight) for weight in norms[0].parameters()}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) not in inside)


def layers_of(body: nn.Module, count: int | None) -> tuple[nn.Module, nn.ModuleList]:
    """The list of a body's layers, and the module that holds it.

    Raises:
        ValueError: there is no list of `count` modules, or more than one.
    """
    found = [
        (parent, child)
        for parent in body.modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(found) != 1:
        raise ValueError(f"layers: expected a model with one list of {count} layers, got {type(body).__name__}")
    return found[0]


def shorten_config(config: Any, count: int) -> None:
    """Make a config that of a model of the first `count` layers, with what it lists by layer."""
    whole = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list) and len(value) == whole:
            setattr(config, name, value[:count])
    config.num_hidden_layers = count


@torch.no_grad()
def reset_norm(norm: Any) -> None:
    """Give a norm the weights that leave normalized values as they are: 1, or 0 if it adds 1 to them (Gemma)."""
    values: Tensor = torch.linspace(-1, 1, norm.weight.numel(), device=norm.weight.device, dtype=norm.weight.dtype)
    for parameter in norm.parameters():
        parameter.zero_()
    if not norm(values).any():
        norm.weight.fill_(1)
