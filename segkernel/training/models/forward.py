"""Keyword arguments of a model's `forward`, looked up behind its wrappers."""

import inspect
from typing import Any

from torch import nn

__all__ = ["innermost", "is_compiled", "takes_position_ids", "without_cache"]


def innermost(model: nn.Module) -> nn.Module:
    """Model inside the wrappers of DistributedDataParallel (`module`), torch.compile (`_orig_mod`) and PEFT."""
    inner: Any = model
    while True:
        if isinstance(wrapped := getattr(inner, "module", getattr(inner, "_orig_mod", None)), nn.Module):
            inner = wrapped
        elif hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        else:
            found: nn.Module = inner
            return found


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has compiled a model or a part of it."""
    return any("_orig_mod" in part._modules or part._compiled_call_impl is not None for part in model.modules())


def takes_position_ids(model: nn.Module) -> bool:
    """Whether `forward` has a parameter `position_ids`."""
    return _takes(model, "position_ids")


def without_cache(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments of `forward` for a pass that continues no text, so that no keys and values are kept."""
    return {"use_cache": False} if _takes(model, "use_cache") else {}


def _takes(model: nn.Module, name: str) -> bool:
    """Whether `forward` has a parameter of this name.

    The wrappers' own signatures are `(*args, **kwargs)`, and so is that of a `forward` that was replaced on the
    instance, so the class of the innermost model is inspected.
    """
    return name in inspect.signature(type(innermost(model)).forward).parameters
