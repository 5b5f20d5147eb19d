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

from segkernel.trainers.aligndistil import AlignDistilConfig, AlignDistilTrainer
from segkernel.trainers.asr_dpo import ASRDPOConfig, ASRDPOTrainer
from segkernel.trainers.asr_ppo import ASRPPOConfig, ASRPPOTrainer
from segkernel.trainers.asr_rft import ASRRFTConfig, ASRRFTTrainer
from segkernel.trainers.dpo import DPOConfig, DPOTrainer
from segkernel.trainers.ppo import PPOConfig, PPOTrainer
from segkernel.trainers.pretrain import PretrainConfig, PretrainTrainer
from segkernel.trainers.r3hf_ppo import R3HFPPOConfig, R3HFPPOTrainer
from segkernel.trainers.reward import RewardConfig, RewardTrainer
from segkernel.trainers.rft import RFTConfig, RFTTrainer
from segkernel.trainers.segment_ppo import SegmentPPOConfig, SegmentPPOTrainer
from segkernel.trainers.segment_reward import SegmentRewardConfig, SegmentRewardTrainer
from segkernel.trainers.token_ppo import TokenPPOConfig

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
