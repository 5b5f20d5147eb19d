"""Reference trainers, one file per method, on `transformers.Trainer`.

| method | file | trains |
| --- | --- | --- |
| `pretrain` | `pretrain.py` | a causal language model |
| `reward` | `reward.py` | a reward model read at every token (Bradley-Terry) |
| `segment-reward` | `segment_reward.py` | a reward model of segments, cut by a language model's entropy |
| `dpo` | `dpo.py` | a policy by DPO on whole responses: the baseline |
| `asr-dpo` | `asr_dpo.py` | a policy by DPO on the segments that earned the reward |
| `ppo` | `ppo.py` | a policy by PPO on the reward of whole responses: the baseline |
| `asr-ppo` | `asr_ppo.py` | a policy by PPO on the segments that earned the reward |
| `segment-ppo` | `segment_ppo.py` | a policy by PPO on the rewards of segments, normalised by their position |
| `token-ppo` | `token_ppo.py` | the same with every token for a segment |
| `r3hf-ppo` | `r3hf_ppo.py` | a policy by PPO on rewards redistributed over the tokens |
| `rft` | `rft.py` | a policy on the best of its own responses: the baseline |
| `asr-rft` | `asr_rft.py` | a policy on those of their segments that earned the reward |
| `aligndistil` | `aligndistil.py` | a policy by distillation, token by token, beyond a DPO model |
"""

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError("segkernel's trainers need transformers: pip install 'segkernel[train]'") from error

from segkernel.training.methods.aligndistil import AlignDistilConfig, AlignDistilTrainer
from segkernel.training.methods.asr_dpo import ASRDPOConfig, ASRDPOTrainer
from segkernel.training.methods.asr_ppo import ASRPPOConfig, ASRPPOTrainer
from segkernel.training.methods.asr_rft import ASRRFTConfig, ASRRFTTrainer
from segkernel.training.methods.dpo import DPOConfig, DPOTrainer
from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
from segkernel.training.methods.pretrain import PretrainConfig, PretrainTrainer
from segkernel.training.methods.r3hf_ppo import R3HFPPOConfig, R3HFPPOTrainer
from segkernel.training.methods.reward import RewardConfig, RewardTrainer
from segkernel.training.methods.rft import RFTConfig, RFTTrainer
from segkernel.training.methods.segment_ppo import SegmentPPOConfig, SegmentPPOTrainer
from segkernel.training.methods.segment_reward import SegmentRewardConfig, SegmentRewardTrainer
from segkernel.training.methods.token_ppo import TokenPPOConfig

__all__ = [
    "ASRDPOConfig",
    "ASRDPOTrainer",
    "ASRPPOConfig",
    "ASRPPOTrainer",
    "ASRRFTConfig",
    "ASRRFTTrainer",
    "AlignDistilConfig",
    "AlignDistilTrainer",
    "DPOConfig",
    "DPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PretrainConfig",
    "PretrainTrainer",
    "R3HFPPOConfig",
    "R3HFPPOTrainer",
    "RFTConfig",
    "RFTTrainer",
    "RewardConfig",
    "RewardTrainer",
    "SegmentPPOConfig",
    "SegmentPPOTrainer",
    "SegmentRewardConfig",
    "SegmentRewardTrainer",
    "TokenPPOConfig",
]
