"""Trainers of segment-level credit assignment on `transformers.Trainer`, and their command line.

`segkernel.training.methods` holds one file per method; `segkernel.training.methods.registry` lists them. Their config
and trainer classes are exported here and imported on first use:

    >>> from segkernel.training import DPOConfig, DPOTrainer

Everything in this package needs the packages of the `train` extra; importing it without them is an `ImportError`.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from segkernel.training.methods.registry import METHODS

if TYPE_CHECKING:
    from segkernel.training.methods.aligndistil import AlignDistilConfig, AlignDistilTrainer
    from segkernel.training.methods.asr_dpo import ASRDPOConfig, ASRDPOTrainer
    from segkernel.training.methods.asr_ppo import ASRPPOConfig, ASRPPOTrainer
    from segkernel.training.methods.asr_rft import ASRRFTConfig, ASRRFTTrainer
    from segkernel.training.methods.confpo import ConfPOConfig, ConfPOTrainer
    from segkernel.training.methods.distill import DistillConfig, DistillTrainer
    from segkernel.training.methods.dpo import DPOConfig, DPOTrainer
    from segkernel.training.methods.entropy_ppo import EntropyPPOConfig, EntropyPPOTrainer
    from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
    from segkernel.training.methods.pretrain import PretrainConfig, PretrainTrainer
    from segkernel.training.methods.r3hf_ppo import R3HFPPOConfig, R3HFPPOTrainer
    from segkernel.training.methods.random_dpo import RandomDPOConfig, RandomDPOTrainer
    from segkernel.training.methods.random_ppo import RandomPPOConfig, RandomPPOTrainer
    from segkernel.training.methods.random_rft import RandomRFTConfig, RandomRFTTrainer
    from segkernel.training.methods.reward import RewardConfig, RewardTrainer
    from segkernel.training.methods.rft import RFTConfig, RFTTrainer
    from segkernel.training.methods.segment_ppo import SegmentPPOConfig, SegmentPPOTrainer
    from segkernel.training.methods.segment_reward import SegmentRewardConfig, SegmentRewardTrainer
    from segkernel.training.methods.sepo import SePOConfig, SePOTrainer
    from segkernel.training.methods.simpo import SimPOConfig, SimPOTrainer
    from segkernel.training.methods.slm_rft import SLMRFTConfig, SLMRFTTrainer
    from segkernel.training.methods.tis_dpo import TISDPOConfig, TISDPOTrainer
    from segkernel.training.methods.token_ppo import TokenPPOConfig, TokenPPOTrainer

# Import names of the packages of the `train` extra in pyproject.toml.
REQUIREMENTS = ("transformers", "accelerate", "tokenizers", "datasets", "jinja2", "matplotlib", "tqdm", "rich")

_MODULES = {name: method.module for method in METHODS.values() for name in method.class_names}

__all__ = [
    "ASRDPOConfig",
    "ASRDPOTrainer",
    "ASRPPOConfig",
    "ASRPPOTrainer",
    "ASRRFTConfig",
    "ASRRFTTrainer",
    "AlignDistilConfig",
    "AlignDistilTrainer",
    "ConfPOConfig",
    "ConfPOTrainer",
    "DPOConfig",
    "DPOTrainer",
    "DistillConfig",
    "DistillTrainer",
    "EntropyPPOConfig",
    "EntropyPPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PretrainConfig",
    "PretrainTrainer",
    "R3HFPPOConfig",
    "R3HFPPOTrainer",
    "RFTConfig",
    "RFTTrainer",
    "RandomDPOConfig",
    "RandomDPOTrainer",
    "RandomPPOConfig",
    "RandomPPOTrainer",
    "RandomRFTConfig",
    "RandomRFTTrainer",
    "RewardConfig",
    "RewardTrainer",
    "SLMRFTConfig",
    "SLMRFTTrainer",
    "SePOConfig",
    "SePOTrainer",
    "SegmentPPOConfig",
    "SegmentPPOTrainer",
    "SegmentRewardConfig",
    "SegmentRewardTrainer",
    "SimPOConfig",
    "SimPOTrainer",
    "TISDPOConfig",
    "TISDPOTrainer",
    "TokenPPOConfig",
    "TokenPPOTrainer",
]


def _check_requirements() -> None:
    missing = [name for name in REQUIREMENTS if not sys.modules.get(name) and not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(
            f"segkernel.training needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed: pip install 'segkernel[train]'"
        )


_check_requirements()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
