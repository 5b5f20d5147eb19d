"""Adapters of `peft` read from a directory, and saved: apart, or merged into the model."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from segkernel.training.models.adapter_base import CONFIG, base_model_of
from segkernel.training.models.adapters import has_adapter, quiet_peft, require_peft

__all__ = ["load_adapter", "load_adapter_weights", "save_merged", "write_card"]


def load_adapter(
    adapter: Path, option: str, load_base: Callable[[str, str], PreTrainedModel], *, trainable: bool = False
) -> PreTrainedModel:
    """Model with a saved adapter: a `peft.PeftModel` that continues its training, or frozen and merged.

    Args:
        adapter: directory of the adapter.
        option: option that gave it, for errors.
        load_base: function from the path of the base model, and its name in errors, to the model.
        trainable: whether to keep the adapter apart and train it.

    Raises:
        ImportError: the package `peft` is missing.
        ValueError: the adapter is damaged, or does not fit its base model.
    """
    require_peft(option)
    from peft import PeftModel

    if not any((adapter / f"adapter_model.{suffix}").is_file() for suffix in ("safetensors", "bin")):
        raise ValueError(f"{option}: expected the weights of an adapter in {str(adapter)!r}, got none")
    base_path = base_model_of(adapter, option)
    base = load_base(base_path, f"{option}: base model of the adapter {str(adapter)!r}")
    try:
        with quiet_peft():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model: Any = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
    except Exception as error:  # of json, safetensors, pickle, torch and peft
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise ValueError(
            f"{option}: the adapter in {str(adapter)!r} cannot be loaded on {base_path!r}: {reason}"
        ) from error
    loaded: PreTrainedModel = model if trainable else model.merge_and_unload()
    return loaded


def load_adapter_weights(model: Any, directory: str | Path) -> None:
    """Replace the weights of a model's adapter with those saved in a directory."""
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(_folder(model, directory)), device="cpu")
    set_peft_model_state_dict(model, weights, model.active_adapter)


def save_merged(model: Any, directory: str | Path) -> None:
    """Save a model with its adapter merged into its weights, in place of the adapter in `directory`.

    The weights are merged in a copy in main memory: those of the model may be shared, and unmerging rounds.
    """
    weights = {id(p): nn.Parameter(p.detach().cpu().clone(), requires_grad=False) for p in model.parameters()}
    merged = copy.deepcopy(model, weights).cpu().merge_and_unload()
    merged.save_pretrained(directory)
    for name in (CONFIG, "adapter_model.safetensors"):
        (_folder(model, directory) / name).unlink(missing_ok=True)
    (Path(directory) / "README.md").unlink(missing_ok=True)


def _folder(model: Any, directory: str | Path) -> Path:
    """Folder in which `peft` saves the active adapter: the directory itself, if the adapter has the default name."""
    name = model.active_adapter
    return Path(directory) if name == "default" else Path(directory) / name


def write_card(directory: str | Path, model: Any) -> None:
    """Write the README of an adapter's directory, to which `peft` adds its metadata, unless there is one."""
    readme = Path(directory) / "README.md"
    if not has_adapter(model) or readme.exists():
        return
    base = model.active_peft_config.base_model_name_or_path or "a model without a name"
    readme.parent.mkdir(parents=True, exist_ok=True)
    readme.write_text(
        "---\nlibrary_name: peft\n---\n\n# Adapter\n\n"
        f"Adapter ({model.active_peft_config.peft_type.value}) of `{base}`, trained with segkernel; "
        "`segkernel train METHOD --model DIR` continues its training.\n\n",
        encoding="utf-8",
    )
