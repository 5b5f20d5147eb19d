"""Adapter on every linear layer, and the logits of a model with one."""

from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

LORA_ALL = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def logits_of(model: Any) -> Tensor:
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return logits
