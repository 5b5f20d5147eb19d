"""Training script for SkyRL with an advantage per turn, or on segments.

Run: `python -m examples.skyrl_turn_grpo trainer.algorithm.advantage_estimator=segkernel_turn_grpo ...`, with the
options of SkyRL's own `skyrl.train.entrypoints.main_base`. Rollouts need vLLM, and therefore a GPU.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import ray
from skyrl.backends.skyrl_train.utils.ppo_utils import register_advantage_estimator
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.entrypoints.main_base import BasePPOExp
from skyrl.train.trainer import RayPPOTrainer
from skyrl.train.utils import initialize_ray, validate_cfg

from segkernel.integrations import skyrl

register_advantage_estimator("segkernel_turn_grpo")(skyrl.turn_grpo)
register_advantage_estimator("segkernel_asr_grpo")(partial(skyrl.asr_grpo, delta=0.5))


class Trainer(skyrl.LossMaskAdvantages, RayPPOTrainer):
    """SkyRL's trainer, whose estimators get the loss mask: its runs of ones are turns."""


class Experiment(BasePPOExp):
    def get_trainer(self, *args: Any, **kwargs: Any) -> Trainer:
        return Trainer(*args, **kwargs)


@ray.remote(num_cpus=1)
def train(config: SkyRLTrainConfig) -> None:
    Experiment(config).run()


def main() -> None:
    config = SkyRLTrainConfig.from_cli_overrides(sys.argv[1:])
    validate_cfg(config)
    initialize_ray(config)
    ray.get(train.remote(config))


if __name__ == "__main__":
    main()
