"""Option parser for dataclasses whose help shows a method's own options in groups, then the common ones of the Trainer.

`transformers.TrainingArguments` has some 130 options. `--help` lists those in `COMMON`; `--help-all` lists the rest.
"""

import argparse
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from transformers import HfArgumentParser, TrainingArguments

from segkernel._arguments import CommandParser

COMMON = {
    "output_dir": "Directory for checkpoints, the model and report.html; it holds one run.",
    "resume_from_checkpoint": "Resume a run: `last`, or the directory of a checkpoint.",
    "learning_rate": "Peak learning rate of AdamW.",
    "lr_scheduler_type": "Schedule of the learning rate: `linear`, `cosine`, `constant`, ...",
    "warmup_steps": "Steps of linear warmup; below 1: share of the run.",
    "num_train_epochs": "Passes over the training rows.",
    "max_steps": "Optimizer steps, in place of epochs; -1: by epochs.",
    "per_device_train_batch_size": "Rows per device and step.",
    "per_device_eval_batch_size": "Rows per device in evaluation, and for frozen models before training.",
    "gradient_accumulation_steps": "Batches per optimizer step.",
    "max_grad_norm": "Norm at which gradients are clipped; 0: never.",
    "seed": "Seed of new weights, of sampling and of the order of rows.",
    "bf16": "Compute in bfloat16 (mixed precision).",
    "use_cpu": "Train on the CPU even where there is a GPU.",
    "logging_steps": "Steps between logs; below 1: share of the run.",
    "eval_strategy": "When to evaluate.",
    "eval_steps": "Steps between evaluations with `--eval_strategy steps`; default: --logging_steps.",
    "save_strategy": "When to save a checkpoint.",
    "save_steps": "Steps between checkpoints with `--save_strategy steps`.",
    "report_to": "Further logs, such as `tensorboard` or `wandb`.",
    "disable_tqdm": "Show no progress bars.",
}

# Values of options that transformers checks only after parsing.
CHOICES = {"eval_strategy": ("no", "steps", "epoch"), "save_strategy": ("no", "steps", "epoch", "best")}

DIRECTORIES = ("output_dir", "resume_from_checkpoint")


class OptionParser(CommandParser, HfArgumentParser):
    """`HfArgumentParser` with grouped help.

    Args:
        dataclass_types: classes of the options, in the order of the help.
        title: heading of the options that belong to no other group, those of a method's config.
        kwargs: arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, dataclass_types: Sequence[type], *, title: str, **kwargs: Any) -> None:
        super().__init__(dataclass_types, add_help=False, formatter_class=OptionFormatter, **kwargs)
        self.title = title
        for action in self._actions:
            action.help = COMMON.get(action.dest, action.help)
            action.choices = CHOICES.get(action.dest, action.choices)
            if action.dest in DIRECTORIES:
                action.metavar = "DIR"
        for dataclass_type in dataclass_types:
            self.removed |= getattr(dataclass_type, "unused_options", {})
        for action in [action for action in self._actions if action.dest in self.removed]:
            self.remove(action)
        self.help_actions = [self.add_argument("-h", "--help", action="help", help="Show this help.")]
        if any(issubclass(dataclass_type, TrainingArguments) for dataclass_type in dataclass_types):
            action = self.add_argument("--help-all", action=HelpAll, help="Show the Trainer's other options as well.")
            self.help_actions.append(action)

    def remove(self, action: argparse.Action) -> None:
        """Remove an option, which argparse has no public method for."""
        container: Any = vars(action)["container"]
        container._remove_action(action)
        for spelling in action.option_strings:
            del self._option_string_actions[spelling]

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Parse options into one object per dataclass.

        Raises:
            UserError: an option that does not exist, or a value of the wrong type.
            ValueError: a value that a dataclass refuses.
        """
        return tuple(self.parse_dict(vars(self.parse_args(argv))))

    def format_help(self, *, everything: bool = False) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(f"{self.prog} [OPTIONS]", [], [], prefix="usage: ")
        formatter.add_text(self.description)
        for title, actions in self.groups(everything=everything).items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()

    def groups(self, *, everything: bool = False) -> dict[str, list[argparse.Action]]:
        """Options by the heading under which the help lists them."""
        actions: dict[str, argparse.Action] = {}
        for action in self._actions:
            actions.setdefault(action.dest, action)  # leaves out the `--no_...` spelling of a flag
        groups: dict[str, list[argparse.Action]] = {}
        # Options that a config adds to the group of another dataclass, and which follow that class's own.
        added: dict[str, list[argparse.Action]] = {}
        headings = {self.heading(owner) for owner in self.dataclass_types if not issubclass(owner, TrainingArguments)}
        trainer: list[argparse.Action] = []
        for dataclass_type in self.dataclass_types:
            for owner, names in options_by_class(dataclass_type).items():
                if owner is TrainingArguments:
                    trainer = [actions[name] for name in names if name not in COMMON]
                elif names:
                    heading = self.heading(owner)
                    adds = issubclass(dataclass_type, TrainingArguments) and heading in headings
                    (added if adds else groups).setdefault(heading, []).extend(actions[name] for name in names)
        for heading, options in added.items():
            groups[heading] += options
        if trainer:
            groups["training"] = [actions[name] for name in COMMON]
            if everything:
                groups["other options of transformers.TrainingArguments"] = trainer
        groups["help"] = self.help_actions
        return groups

    def heading(self, owner: type) -> str:
        """Heading of the options that a class introduced: its own name for them, or `title` for a method's config."""
        if issubclass(owner, TrainingArguments):  # it inherits the names of its mixins
            return self.title
        return str(getattr(owner, "_argument_group_name", self.title))


def options_by_class(dataclass_type: type) -> dict[type, list[str]]:
    """Names of the options of a dataclass by the class that introduced them, from the class itself to its bases.

    An option that a class redefines, to change its default, stays with the base class that introduced it.
    """
    unused = getattr(dataclass_type, "unused_options", {})
    names = {field.name for field in fields(dataclass_type) if field.init and field.name not in unused}
    return {
        owner: [
            name
            for name in inspect.get_annotations(owner)
            if name in names and not any(name in inspect.get_annotations(base) for base in owner.__mro__[1:])
        ]
        for owner in inspect.getmro(dataclass_type)
    }


class HelpAll(argparse.Action):
    """Print the help with every option, and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        assert isinstance(parser, OptionParser)
        print(parser.format_help(everything=True), end="")
        parser.exit()


class OptionFormatter(argparse.HelpFormatter):
    """One spelling per option, a short placeholder for its value, and its default after the help text."""

    PLACEHOLDERS: ClassVar[dict[str, str]] = {"int": "N", "float": "X", "str": "TEXT", "string_to_bool": "BOOL"}

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, **kwargs})

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return ", ".join(action.option_strings)
        name = action.option_strings[0]
        if action.nargs == "?":  # a flag
            return f"{name}, --no_{action.dest}" if action.default is True else name
        return f"{name} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        long = action.metavar is None and len(",".join(map(str, action.choices or ()))) > 40
        return (lambda size: ("NAME",) * size) if long else super()._metavar_formatter(action, default_metavar)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return self.PLACEHOLDERS.get(getattr(action.type, "__name__", ""), "VALUE")

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").strip()
        default = action.default
        if default in (None, "", argparse.SUPPRESS) or "efault" in text:
            return text
        if isinstance(default, bool):
            return f"{text} (default: {'on' if default else 'off'})"
        shown = f"{default:g}" if isinstance(default, float) else getattr(default, "value", default)
        return f"{text} (default: {str(shown).replace('%', '%%')})"
