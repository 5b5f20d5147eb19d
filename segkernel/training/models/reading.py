"""Configs, tokenizers and weights read from a location by transformers, with errors of one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from segkernel.training.models.adapter_base import base_model_of, find_adapter
from segkernel.training.models.gguf import dequantizing, forget_quantization, with_tokens_of_the_file
from segkernel.training.models.paths import locate

__all__ = ["read_config", "read_model", "read_tokenizer"]

logger = logging.getLogger(__name__)

# Prefixes of the parameters of a scalar head, which a causal language model lacks.
HEADS = ("score.", "classifier.")


def read_config(path: str, option: str) -> PretrainedConfig:
    """Config of the model at `path`; errors name the option."""
    place = locate(path, option)
    if place.directory is not None and not place.is_gguf and not (place.directory / "config.json").is_file():
        raise FileNotFoundError(f"{option}: expected a model's directory, got {path!r}, which holds no config.json")
    with one_line_errors(option, path, "config"):
        config: PretrainedConfig = AutoConfig.from_pretrained(place.name, **place.options)
    return config


def read_tokenizer(path: str, option: str) -> PreTrainedTokenizerBase:
    """Tokenizer at `path`, with its chat template; a GGUF file holds both.

    The tokenizer of an adapter that was saved without one is that of its base model.
    """
    adapter = find_adapter(path, option)
    if adapter is not None and not (adapter / "tokenizer_config.json").is_file():
        path, option = base_model_of(adapter, option), f"{option}: base model of the adapter {path!r}"
    place = locate(path, option)
    with one_line_errors(option, path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place.name, **place.options)
        if place.is_gguf:
            config = AutoConfig.from_pretrained(place.name, **place.options)
            tokenizer = with_tokens_of_the_file(tokenizer, config.get_text_config().vocab_size)
    return tokenizer


def read_model(
    model_class: Any,
    path: str,
    option: str,
    *,
    dtype: str = "float32",
    config: PretrainedConfig | None = None,
    head_follows: bool = False,
) -> PreTrainedModel:
    """Model of a class (`AutoModelForCausalLM`, or one of a single architecture) with all weights from `path`.

    The weights of a GGUF file are dequantized. A scalar head that the files lack is new, which is logged unless
    `head_follows`, from an adapter; no other weight may be missing.

    Raises:
        FileNotFoundError, ConnectionError: there is nothing at `path`.
        ValueError: the files are damaged, or lack weights. Errors name the option.
    """
    place = locate(path, option)
    options: dict[str, Any] = {**place.options, "dtype": torch_dtype(dtype)}
    if place.is_gguf:
        options |= dequantizing()
        if options["dtype"] == "auto":
            options["dtype"] = torch.float32
    if config is not None:
        options["config"] = config
    with one_line_errors(option, path, "model"), without_warnings():
        model, report = model_class.from_pretrained(place.name, output_loading_info=True, **options)
    if place.is_gguf:
        forget_quantization(model)
    missing = sorted(report["missing_keys"])
    unknown = [name for name in missing if not name.startswith(HEADS)]
    if unknown:
        raise ValueError(f"{option}: expected the weights of a {type(model).__name__} in {path!r}, {_missing(unknown)}")
    if missing and not head_follows:
        logger.warning("%s: a new scalar head on the language model %r", option, path)
    model.name_or_path = path  # which an adapter names as its base model
    loaded: PreTrainedModel = model
    return loaded


def torch_dtype(name: str) -> torch.dtype | str:
    """`torch.dtype` of a name, or `auto`, for the one that the files have."""
    if name == "auto":
        return name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected `auto`, `float32`, `bfloat16` or `float16`, got {name!r}")
    return dtype


@contextmanager
def one_line_errors(option: str, path: str, kind: str) -> Iterator[None]:
    """Report damaged files as a `ValueError` that names the option and the path."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{option}: {path!r} cannot be read: {_first_line(error)}") from error
    except Exception as error:  # of json, safetensors, tokenizers, pickle and transformers
        damaged = _damaged_file(Path(path))
        place, reason = (path, _first_line(error)) if damaged is None else damaged
        raise ValueError(f"{option}: the {kind} in {place!r} cannot be read: {reason}") from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Leave out transformers' table of missing and unexpected weights, and its remarks on tensor parallelism.

    `read_model` checks the weights itself.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _missing(names: list[str]) -> str:
    others = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"which lacks {', '.join(names[:3])}{others}"


def _damaged_file(directory: Path) -> tuple[str, str] | None:
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return str(file), _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
