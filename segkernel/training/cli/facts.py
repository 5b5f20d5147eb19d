"""Facts of a run, for its report and its last lines: model, data, options, versions, device, duration."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transformers

import segkernel
from segkernel.training.cli.build import DATA, option_parser
from segkernel.training.methods.registry import Method
from segkernel.training.progress import duration
from segkernel.training.trainer.base import SegkernelTrainer


class Command(NamedTuple):
    """Command line of a run."""

    method: Method
    argv: Sequence[str]  # options after the method's name
    began: float  # `time.monotonic()` at its start


def run_facts(trainer: SegkernelTrainer, command: Command, seconds: float) -> dict[str, str]:
    """Facts of a finished run by name, in the order in which they are shown.

    Args:
        trainer: trainer of the run.
        command: command of the run.
        seconds: duration of the run, with loading and preparation.
    """
    method = command.method
    options = given_options(command)
    file_option = DATA[method.data].file_option
    model, data = options.pop("model", None), options.pop(file_option, None)
    options.pop("output_dir", None)
    held_out = "none" if trainer.eval_dataset is None else f"{len(trainer.eval_dataset)}"
    epochs = "" if trainer.state.epoch is None else f" ({trainer.state.epoch:.4g} epochs)"
    return {
        "method": f"{method.name}: {method.summary}",
        "model": f"{model or 'new'} ({parameter_counts(trainer.model)})",
        "data": f"{data} ({len(trainer.train_dataset)} rows, {held_out} held out)",
        "options": ", ".join(f"{name}={value}" for name, value in options.items()) or "all at their defaults",
        "steps": f"{trainer.state.global_step}{epochs}",
        "duration": duration(seconds),
        "device": device_name(trainer.args.device, trainer.args.world_size),
        "versions": versions(),
    }


def given_options(command: Command) -> dict[str, Any]:
    """Options of a command line whose values differ from the defaults."""
    parser = option_parser(command.method)
    values, defaults = vars(parser.parse_args(command.argv)), vars(parser.parse_args([]))
    return {name: value for name, value in values.items() if value != defaults[name]}


def run_command(command: Command) -> str:
    """Shell command of a run.

    Example:
        >>> from segkernel.training.methods.registry import METHODS
        >>> run_command(Command(METHODS["dpo"], ["--preferences", "my pairs.jsonl"], 0.0))
        "segkernel train dpo --preferences 'my pairs.jsonl'"
    """
    return shlex.join(["segkernel", "train", command.method.name, *command.argv])


def parameter_counts(model: Any) -> str:
    """Number of parameters, and of those that are trained where these are fewer.

    Example:
        >>> layer = torch.nn.Linear(1000, 1500)
        >>> layer.weight.requires_grad_(False) is layer.weight, parameter_counts(layer)
        (True, '1.5 M parameters, 1.5 k trained')
    """
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    count = sum(parameter.numel() for parameter in parameters)
    return f"{in_thousands(count)} parameters" + (f", {in_thousands(trained)} trained" if trained != count else "")


def in_thousands(count: float) -> str:
    """Three significant digits with a prefix of 1000.

    Example:
        >>> in_thousands(999), in_thousands(1_500_000), in_thousands(7e9)
        ('999', '1.5 M', '7 B')
    """
    for prefix in ("", " k", " M"):
        if count < 999.5:
            return f"{count:.3g}{prefix}"
        count /= 1000
    return f"{count:.3g} B"


def device_name(device: torch.device, processes: int) -> str:
    """Type or model of the device, with the number of processes if there are several."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, {processes} processes" if processes > 1 else name


def versions() -> str:
    """Versions of the packages that a result depends on."""
    found = {
        "segkernel": segkernel.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())
