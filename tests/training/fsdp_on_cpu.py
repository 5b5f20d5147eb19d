"""`python fsdp_on_cpu.py ARGUMENTS`: `segkernel ARGUMENTS` under FSDP2 on the CPU, for `torchrun`.

accelerate shards models only on accelerators; this script makes it treat the processes as such, with gloo.
"""

import os
import sys
from typing import Any

os.environ |= {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}

from accelerate import PartialState  # reads the environment
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from segkernel._cli import main
from segkernel.training.trainer.base import SegkernelTrainer

initialize, training_step = PartialState.__init__, SegkernelTrainer.training_step


def as_accelerator(self: PartialState, *args: Any, **kwargs: Any) -> None:
    initialize(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def sharded_step(self: SegkernelTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
    layers = [module for name, module in model.named_modules() if name.endswith("layers.0")]
    assert layers
    assert all(isinstance(module, FSDPModule) for module in (model, *layers))
    return training_step(self, model, *args, **kwargs)


PartialState.__init__ = as_accelerator
SegkernelTrainer.training_step = sharded_step
sys.exit(main(sys.argv[1:]))
