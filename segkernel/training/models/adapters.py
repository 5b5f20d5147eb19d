"""Adapters of the `peft` library: few trained weights on top of a frozen model (LoRA, arXiv 2106.09685, and others).

A model with an adapter is a `peft.PeftModel`, which takes the place of a `transformers.PreTrainedModel` but is none.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available

if TYPE_CHECKING:
    from peft import PeftConfig


def has_adapter(model: Any) -> bool:
    """Whether a model is a `peft.PeftModel`."""
    if not is_peft_available():
        return False
    from peft import PeftModel

    return isinstance(model, PeftModel)


def require_peft(name: str) -> None:
    """Refuse adapters where the package `peft` is not installed; the error names the option or argument `name`."""
    if not is_peft_available():
        raise ImportError(
            f"{name}: an adapter needs the package peft, which is not installed: pip install 'segkernel[peft]'"
        )


def with_adapter(model: PreTrainedModel, config: "PeftConfig") -> Any:
    """Freeze a model and add a new adapter to it. A scalar head is trained in full and saved with the adapter.

    Args:
        model: causal language model, or a model with one output per token; changed in place.
        config: config of the adapter, which stays as it is. Its task type and its base model are filled in.

    Raises:
        ImportError: the package `peft` is missing.
        ValueError: the model has an adapter already, or the config does not fit it.
    """
    require_peft("peft_config")
    from peft import PeftConfig, get_peft_model

    if not isinstance(config, PeftConfig):
        raise ValueError(f"peft_config: expected a config of peft, such as LoraConfig, got {type(config).__name__}")
    if has_adapter(model):
        raise ValueError("peft_config: expected a model without an adapter, got one with an adapter to train")
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # filled in by peft; another one is worth a warning
    refuse_virtual_tokens(config)
    heads = scalar_heads(model)
    config.task_type = "TOKEN_CLS" if heads else "CAUSAL_LM"
    if heads:
        options: Any = config
        options.modules_to_save = sorted({*(getattr(config, "modules_to_save", None) or ()), *heads})
        options.exclude_modules = getattr(config, "exclude_modules", None) or heads
    try:
        with quiet_peft():
            return get_peft_model(model, config)
    except ValueError as error:  # of layers that the model lacks, or that the method cannot adapt
        raise ValueError(f"target_modules: {error}") from error


def refuse_virtual_tokens(config: "PeftConfig", name: str = "peft_config") -> None:
    """Refuse prompt tuning and its kin, whose virtual tokens shift the logits away from the tokens of the batch."""
    if config.is_prompt_learning:
        method = getattr(config.peft_type, "value", config.peft_type)
        raise ValueError(f"{name}: expected a method without virtual tokens, such as LoRA, got {method}")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence warnings of `peft` without consequence: an attribute's new name, and Conv1D, which it handles itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        yield


def check_trainable(model: Any) -> None:
    """Refuse a model whose adapter was loaded for inference only."""
    if has_adapter(model):
        refuse_virtual_tokens(model.active_peft_config)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                "model: expected an adapter with trainable weights, got a frozen one (load it by "
                "`PeftModel.from_pretrained(..., is_trainable=True)`)"
            )


def scalar_heads(model: PreTrainedModel) -> list[str]:
    """Names of a scalar model's layers outside its backbone; none of a causal language model."""
    if model.get_output_embeddings() is not None:
        return []
    outer = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    return sorted({name.split(".")[0] for name in outer})


def train_adapter(model: Any) -> Any:
    """Make a model trainable: all of it, or of a model with an adapter only the adapter."""
    model.requires_grad_(not has_adapter(model))
    if has_adapter(model):
        model.set_adapter(model.active_adapter)
    return model


def copy_with_shared_base(model: Any) -> Any:
    """Copy of a model with a trainable adapter of its own, on the same frozen weights in memory."""
    train_adapter(model)
    frozen = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, frozen)


def copy_with_shared_weights(model: nn.Module) -> Any:
    """Copy of a model's layers, on the same weights in memory."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def share_frozen_weights(model: nn.Module, origin: nn.Module) -> None:
    """Let a frozen model use the frozen weights of another one in memory, those that are equal bit for bit."""
    weights = {_name_in_base(name): weight for name, weight in origin.named_parameters() if not weight.requires_grad}
    for name, weight in list(model.named_parameters()):
        shared = weights.get(_name_in_base(name))
        if shared is not None and shared.dtype == weight.dtype and torch.equal(shared, weight):
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, shared)


def _name_in_base(name: str) -> str:
    """Name of a parameter in the model under an adapter: without the wrappers of the model and of adapted layers."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")


def config_for_body(policy: Any, model: PreTrainedModel) -> "PeftConfig":
    """Config of a policy's adapter for a model of another head: without the layers that `model` lacks."""
    config: PeftConfig = copy.deepcopy(policy.active_peft_config)
    prefix = f"{policy.get_base_model().base_model_prefix}."
    present = [name for name, _ in model.named_modules()]
    for option in ("target_modules", "modules_to_save"):
        names = getattr(config, option, None)
        if names is None or isinstance(names, str):
            continue
        names = [name.removeprefix(prefix) for name in names]
        setattr(config, option, [n for n in names if any(f".{layer}".endswith(f".{n}") for layer in present)] or None)
    return config


def with_adapter_like(policy: Any, model: PreTrainedModel) -> PreTrainedModel:
    """Add a copy of a policy's adapter to a model with the same body and another head."""
    adapted = with_adapter(model, config_for_body(policy, model))
    trained = {
        name.replace(f".{policy.active_adapter}", ".default"): parameter
        for name, parameter in policy.get_base_model().base_model.named_parameters()
        if parameter.requires_grad
    }
    adapted.get_base_model().base_model.load_state_dict(trained, strict=False)
    result: PreTrainedModel = adapted
    return result
