"""FSDP2 on the CPU.

accelerate shards models only on accelerators; `shard_on_cpu` makes it treat the processes as such, with gloo.
"""

import os
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from segkernel.training.trainer.base import SegkernelTrainer

initialize, training_step = PartialState.__init__, SegkernelTrainer.training_step


def shard_on_cpu() -> None:
    """Shard the models of this process's trainers by FSDP2."""
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    PartialState.__init__ = as_accelerator
    SegkernelTrainer.training_step = sharded_step


def as_accelerator(self: PartialState, *args: Any, **kwargs: Any) -> None:
    initialize(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def sharded_step(self: SegkernelTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
    layers = [module for name, module in model.named_modules() if name.endswith("layers.0")]
    assert layers
    assert all(isinstance(module, FSDPModule) for module in (model, *layers))
    return training_step(self, model, *args, **kwargs)
