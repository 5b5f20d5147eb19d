"""Options of new adapters and of their saved form."""

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from segkernel import _validate
from segkernel.training.mixins import OptionsMixin
from segkernel.training.models.adapter_base import is_adapter_directory
from segkernel.training.models.adapters import refuse_virtual_tokens, require_peft

if TYPE_CHECKING:
    from peft import PeftConfig

LORA, ALL_LINEAR = "lora", "all-linear"


@dataclass
class MergeOptions(OptionsMixin):
    """Form in which a trained adapter is saved."""

    _argument_group_name = "adapters"

    merge_adapter: bool = field(
        default=False,
        metadata={
            "help": "Save the trained model with the adapter merged into its weights; checkpoints keep it apart."
        },
    )


@dataclass
class AdapterArguments:
    """Adapter to train in place of the model's own weights; LoRA's options have the names of `peft.LoraConfig`."""

    _argument_group_name = "adapters"

    peft: str | None = field(
        default=None,
        metadata={
            "help": "Train an adapter on the frozen weights of --model: `lora`, or a JSON file with the config of any "
            "method of the `peft` library (an `adapter_config.json`). An adapter given as --model is trained as it is, "
            "without this option.",
            "metavar": "NAME",
        },
    )
    lora_r: int = field(default=16, metadata={"help": "LoRA: rank of the update of a weight."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA: the update is scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA: dropout on the adapter's inputs."})
    target_modules: list[str] = field(
        default_factory=lambda: [ALL_LINEAR],
        metadata={
            "help": "LoRA: names of the layers that get an adapter, such as `q_proj v_proj`; `all-linear`: every "
            "linear layer but the head.",
            "metavar": "NAME",
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={
            "help": "LoRA: names of layers that are trained in full and saved with the adapter.",
            "metavar": "NAME",
        },
    )
    use_rslora: bool = field(default=False, metadata={"help": "LoRA: scale by lora_alpha / sqrt(lora_r)."})
    use_dora: bool = field(
        default=False, metadata={"help": "LoRA: train the length of each weight's columns apart (DoRA)."}
    )

    def __post_init__(self) -> None:
        _validate.minimum("lora_r", self.lora_r, 1)
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout: expected 0 <= lora_dropout < 1, got {self.lora_dropout}")
        if self.peft != LORA:
            for option in fields(self)[1:]:
                default = option.default if option.default_factory is MISSING else option.default_factory()
                if getattr(self, option.name) != default:
                    raise ValueError(
                        f"{option.name}: expected no value without `--peft lora`, got {getattr(self, option.name)}"
                    )

    def check(self, model: str | None, *, disable_dropout: bool) -> None:
        """Refuse an adapter without a model to put it on, on a model that has one, or with options of no effect."""
        if self.peft is None:
            return
        config = self.peft_config()
        assert config is not None  # since `peft` is given
        refuse_virtual_tokens(config, "peft")
        if model is None:
            raise ValueError("model: expected the model under the adapter (--model DIR), got none")
        if is_adapter_directory(model):
            raise ValueError(f"peft: expected no value, since --model {model} is an adapter, got {self.peft}")
        dropout = getattr(config, "lora_dropout", 0.0)
        if disable_dropout and dropout:
            raise ValueError(
                f"lora_dropout: expected 0 with --disable_dropout, got {dropout} (add --no_disable_dropout)"
            )

    def peft_config(self) -> "PeftConfig | None":
        """Config of the new adapter; `None` without `--peft`.

        Raises:
            ImportError: the package `peft` is missing.
            ValueError: `peft` names no method, and no JSON file of a config.
        """
        if self.peft is None:
            return None
        require_peft("peft")
        if self.peft != LORA:
            return read_peft_config(self.peft)
        from peft import LoraConfig

        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=ALL_LINEAR if self.target_modules == [ALL_LINEAR] else self.target_modules,
            modules_to_save=self.modules_to_save,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )


def read_peft_config(path: str) -> "PeftConfig":
    """Config of an adapter of any method of `peft`, from a JSON file."""
    from peft import get_peft_config

    if not Path(path).is_file():
        raise ValueError(f"peft: expected `lora` or a JSON file of a peft config, got {path!r}")
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        # The base model of the file is not the one that is trained.
        return get_peft_config({**config, "base_model_name_or_path": None, "inference_mode": False})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"peft: expected a JSON file of a peft config, got {path!r} ({type(error).__name__}: {error})"
        ) from error
