"""Policies and reward models on a shared frozen trunk, saved as the weights that were trained."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.experiments.pretrained.trunk import HiddenStates, freeze_trunk
from segkernel.training.models import ModelArguments, load_causal_lm, load_tokenizer
from segkernel.training.models.first_layers import keep_first_layers


class Models:
    """Models of one process: the pretrained one is read once, and its frozen layers run once per text.

    Args:
        name: name or folder of the pretrained model.
        trained_layers: how many of the last layers are trained.
        dtype: that of the frozen weights and of the matrix products.
        reward_layers: a reward model reads the output of this many first layers, which are frozen; only its head is
            trained. `None`: it has all layers, and as many are trained as in a policy.
    """

    def __init__(self, name: str, trained_layers: int, dtype: torch.dtype, reward_layers: int | None = None) -> None:
        self.tokenizer, self.pretrained = read_pretrained(name, self.device)
        self.trained_layers, self.dtype, self.reward_layers = trained_layers, dtype, reward_layers
        self.cache, self.reward_cache = HiddenStates(), HiddenStates()

    @property
    def device(self) -> torch.device:
        """Device of all models: a GPU if there is one. Reading it initializes CUDA, so only worker processes do."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def policy(self, folder: Path | None = None) -> PreTrainedModel:
        """Policy saved in a folder; the pretrained model without one."""
        policy = copy.deepcopy(self.pretrained)
        freeze_trunk(policy, self.cache, trained=self.trained_layers, dtype=self.dtype)
        return with_weights(policy, folder)

    def reward_model(self, folder: Path | None = None) -> PreTrainedModel:
        """Reward model saved in a folder; one with a new head of zeros without one."""
        if self.reward_layers is None:
            return with_weights(self.value_model(), folder)
        model = self._with_scalar_head()
        keep_first_layers(model, self.reward_layers)
        freeze_trunk(model, self.reward_cache, trained=0, dtype=self.dtype)
        return with_weights(model, folder)

    def value_model(self) -> PreTrainedModel:
        """The pretrained model with a head of zeros; as many of its layers are trained as in a policy."""
        model = self._with_scalar_head()
        freeze_trunk(model, self.cache, trained=self.trained_layers, dtype=self.dtype)
        return model.eval()

    def _with_scalar_head(self) -> PreTrainedModel:
        """The pretrained layers under a head of zeros with one output per token."""
        config = copy.deepcopy(self.pretrained.config)
        config.num_labels, config.classifier_dropout = 1, 0.0
        with torch.device("meta"):  # every weight is replaced
            model = LlamaForTokenClassification(config)
        model.model = copy.deepcopy(self.pretrained.base_model)
        model.model.config = config
        model.score.to_empty(device=self.device)
        for parameter in model.score.parameters():
            nn.init.zeros_(parameter)
        return model


def with_weights(model: PreTrainedModel, folder: Path | None) -> PreTrainedModel:
    """The model with the trained weights of a folder, if one is given, in evaluation mode."""
    if folder is not None:
        missing, unexpected = model.load_state_dict(load_file(folder / "trained.safetensors"), strict=False)
        assert not unexpected
        assert not any(model.get_parameter(name).requires_grad for name in missing)
    return model.eval()


@lru_cache(maxsize=1)
def read_pretrained(name: str, device: torch.device) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer, and model on a device."""
    tokenizer = load_tokenizer(ModelArguments(model=name), ())
    model: Any = load_causal_lm(ModelArguments(model=name), tokenizer)
    return tokenizer, model.to(device)


def converted(name: str, folder: Path) -> Path:
    """Folder with the weights and tokenizer of a model as transformers saves them, written by the first process.

    Every process would take ten times as long to read a GGUF file.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            for part in read_pretrained(name, torch.device("cpu")):
                part.save_pretrained(partial)
            partial.rename(folder)
    return folder


def save_trained(model: PreTrainedModel, folder: Path) -> None:
    """Save the weights that are trained."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    save_file(trained, folder / "trained.safetensors")
