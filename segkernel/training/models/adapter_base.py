"""Adapters of `peft` on disk and on the hub: where they are, and which base model and task their config names."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import file_exists, snapshot_download

from segkernel.training.models.paths import locate

__all__ = ["CONFIG", "adapter_task", "base_model_of", "find_adapter", "is_adapter_directory"]

CONFIG = "adapter_config.json"
TASKS = ("CAUSAL_LM", "TOKEN_CLS", "SEQ_CLS")


def is_adapter_directory(path: str | Path | None) -> bool:
    """Whether a path is the directory of a saved adapter."""
    return path is not None and (Path(path) / CONFIG).is_file()


def find_adapter(path: str, option: str) -> Path | None:
    """Directory of the adapter at a path or hub name, which is downloaded; `None` for anything else."""
    if Path(path).exists():
        return Path(path) if is_adapter_directory(path) else None
    place = locate(path, option)
    if place.directory is None and file_exists(place.name, CONFIG):
        return Path(snapshot_download(place.name))
    return place.directory if is_adapter_directory(place.directory) else None


def base_model_of(adapter: str | Path, option: str) -> str:
    """Path or hub name of an adapter's base model.

    A relative path is that of the working directory, as for `peft`, or else of the nearest folder above the adapter.

    Raises:
        ValueError: the adapter's config cannot be read, or names no base model. Errors name the option.
    """
    base = _read_config(adapter, option).get("base_model_name_or_path")
    if not base:
        file = str(Path(adapter) / CONFIG)
        raise ValueError(f"{option}: {file!r}: expected base_model_name_or_path, the model under the adapter, got none")
    if Path(base).exists():
        return str(base)
    above = (folder / base for folder in Path(adapter).absolute().parents)
    return next((str(path) for path in above if path.exists()), str(base))


def adapter_task(adapter: Path, option: str) -> str:
    """Task type of an adapter: `CAUSAL_LM`, or of a reward model `TOKEN_CLS` or `SEQ_CLS`.

    Raises:
        ValueError: it is another one. The error names the option.
    """
    task = _read_config(adapter, option).get("task_type") or "CAUSAL_LM"
    if task not in TASKS:
        raise ValueError(f"{option}: expected a task type of {TASKS} in {str(adapter / CONFIG)!r}, got {task!r}")
    return str(task)


def _read_config(adapter: str | Path, option: str) -> dict[str, Any]:
    file = Path(adapter) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{option}: {str(file)!r} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{option}: {str(file)!r} cannot be read: expected a JSON object, got {type(config).__name__}")
    return config
