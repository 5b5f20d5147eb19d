"""Methods on sampled responses: rejection sampling and PPO, each with its variants."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from benchmarks.experiments.credit import TrainedResponse
from benchmarks.experiments.methods import ASR_BASELINE, ASR_DELTA, Method, TrainedPolicy, training
from benchmarks.experiments.tasks import Task
from benchmarks.experiments.timing import timing
from benchmarks.experiments.workspace import Workspace
from examples.capitals.pairs import is_well_formed
from examples.capitals.task import QUESTION, SEPARATOR, draw_countries, grade, prompt_text, token_credit
from examples.capitals.training import train_and_save
from segkernel.training import (
    ASRPPOConfig,
    ASRPPOTrainer,
    ASRRFTConfig,
    ASRRFTTrainer,
    PPOConfig,
    PPOTrainer,
    R3HFPPOConfig,
    R3HFPPOTrainer,
    RFTConfig,
    RFTTrainer,
    SegmentPPOConfig,
    SegmentPPOTrainer,
    TokenPPOConfig,
)
from segkernel.training.methods import segment_ppo as segment_ppo_module
from segkernel.training.models import load_scoring_model
from segkernel.training.segmentation.entropy import Segmenter, load_segmenter

Train = Callable[[Workspace, Task], TrainedPolicy]
ASR_OPTIONS = {"baseline": ASR_BASELINE, "delta": ASR_DELTA}


def prompts(work: Workspace) -> list[dict[str, str]]:
    """Training prompts of a seed."""
    rng = random.Random(f"prompts {work.seed}")
    parts = work.settings.task.parts
    return [{"prompt": prompt_text(draw_countries(rng, parts))} for _ in range(work.settings.policy_pairs)]


def sampling_options(work: Workspace) -> dict[str, Any]:
    """Response length of a complete answer without EOS, as in the reward model's pairs."""
    parts = work.settings.task.parts
    return {"max_new_tokens": 2 * parts, "max_prompt_length": 2 * parts + 1}


def rejection_sampling(trainer_type: type[RFTTrainer], config_type: type[RFTConfig], **options: Any) -> Train:
    def train(work: Workspace, task: Task) -> TrainedPolicy:
        model = work.policy()
        config = config_type(samples=4, **options, **sampling_options(work), **work.policy_options(task))
        scorer = load_scoring_model(str(work.reward_folder(task)), work.tokenizer)
        with timing((trainer_type, "accept")) as accepting:
            trainer = trainer_type(model, config, prompts(work), None, work.tokenizer, reward_model=scorer)
        train_and_save(trainer)
        responses = [
            graded_response(work.tokenizer, row["prompt_ids"], row["response_ids"], row.get("mask"), 1)
            for row in trainer.train_dataset
        ]
        return TrainedPolicy(model, [found for found in responses if found], accepting.seconds)

    return train


def proximal(trainer_type: type[PPOTrainer], config_type: type[PPOConfig], **options: Any) -> Train:
    def train(work: Workspace, task: Task) -> TrainedPolicy:
        trainer, model = ppo_trainer(work, task, trainer_type, config_type(**options, **ppo_options(work, task)))
        return train_ppo(work, trainer, model, (trainer, "token_rewards"), (trainer, "policy_mask"))

    return train


def segment_ppo(kind: str, config_type: type[SegmentPPOConfig]) -> Train:
    def train(work: Workspace, task: Task) -> TrainedPolicy:
        segmenter = load_segmenter(work.reward_folder(task, kind))
        config = config_type(**ppo_options(work, task))
        trainer, model = ppo_trainer(work, task, SegmentPPOTrainer, config, kind=kind, segmenter=segmenter)
        return train_ppo(
            work,
            trainer,
            model,
            (segment_ppo_module, "token_entropy"),
            (segment_ppo_module, "rewards_at_segment_ends"),
            (segkernel, "segment_by_entropy"),
            (Segmenter, "normalize"),
            (trainer, "token_rewards"),
        )

    return train


def ppo_options(work: Workspace, task: Task) -> dict[str, Any]:
    settings = work.settings
    return {
        **work.policy_options(task),
        **sampling_options(work),
        "max_steps": settings.ppo_steps,
        "rollout_epochs": settings.rollout_epochs,
        "kl_coef": settings.kl_coef,
    }


def ppo_trainer(
    work: Workspace,
    task: Task,
    trainer_type: type[PPOTrainer],
    config: PPOConfig,
    *,
    kind: str = "reward",
    **options: Any,
) -> tuple[PPOTrainer, PreTrainedModel]:
    """A trainer with a reward model of this kind, and its policy."""
    model = work.policy()
    scorer = load_scoring_model(str(work.reward_folder(task, kind)), work.tokenizer)
    return trainer_type(model, config, prompts(work), None, work.tokenizer, reward_model=scorer, **options), model


def train_ppo(
    work: Workspace, trainer: PPOTrainer, model: PreTrainedModel, *making_segments: tuple[Any, str]
) -> TrainedPolicy:
    """Train, and time the functions that make segments, rewards and masks."""
    with timing(*making_segments) as segmenting:
        rollouts = observe_rollouts(trainer)
        train_and_save(trainer)
    responses = [found for rollout in rollouts for found in graded_rollout(work.tokenizer, rollout)]
    return TrainedPolicy(model, responses, segmenting.seconds)


def observe_rollouts(trainer: PPOTrainer) -> list[dict[str, Tensor]]:
    """List that receives every rollout of the trainer with its `policy_mask`."""
    rollouts: list[dict[str, Tensor]] = []
    policy_mask: Any = trainer.policy_mask

    def observed(batch: dict[str, Tensor]) -> Tensor:
        mask = policy_mask(batch) & batch["response_mask"]
        names = ("input_ids", "attention_mask", "response_mask", "sequence_rewards")
        rollouts.append({**{name: batch[name] for name in names}, "policy_mask": mask})
        return mask

    trainer.policy_mask = observed  # type: ignore[method-assign]
    return rollouts


def graded_rollout(tokenizer: PreTrainedTokenizerBase, rollout: dict[str, Tensor]) -> list[TrainedResponse]:
    """Well-formed responses of a rollout; the verdict is the sign of the reward minus the rollout's mean."""
    rewards = rollout["sequence_rewards"]
    signs = (rewards - rewards.mean()).sign().int().tolist()
    response = rollout["response_mask"].bool()
    prompt = rollout["attention_mask"].bool() & ~response
    found = [
        graded_response(tokenizer, ids[p].tolist(), ids[r].tolist(), mask[r].tolist(), sign)
        for ids, p, r, mask, sign in zip(
            rollout["input_ids"], prompt, response, rollout["policy_mask"], signs, strict=True
        )
    ]
    return [one for one in found if one]


def graded_response(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[int],
    response_ids: list[int],
    mask: list[bool] | None,
    sign: int,
) -> TrainedResponse | None:
    """A sampled response with its mask (`None`: all tokens); `None` for a malformed response."""
    countries = str(tokenizer.decode(prompt_ids)).removesuffix(QUESTION).split(SEPARATOR)
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(response_ids)]
    if not is_well_formed(tokens, len(countries)):
        return None
    credit = token_credit(tokens, grade(countries, "".join(tokens)))
    return TrainedResponse([True] * len(tokens) if mask is None else mask, credit, sign)


def online(name: str, train: Train, learning_rate: float, baseline: str, kind: str = "reward") -> Method:
    """A method on fresh prompts: only its rewards depend on the preference pairs."""
    return Method(
        name,
        training(train),
        uses=("rewards",),
        needs={"pairs": "", kind: "rewards"},
        learning_rate=learning_rate,
        baseline=baseline,
    )


ROLLOUT_METHODS = [
    online("rft", rejection_sampling(RFTTrainer, RFTConfig), 1e-3, "no training"),
    online("asr-rft", rejection_sampling(ASRRFTTrainer, ASRRFTConfig, **ASR_OPTIONS), 1e-3, "rft"),
    online("ppo", proximal(PPOTrainer, PPOConfig), 3e-4, "no training"),
    online("asr-ppo", proximal(ASRPPOTrainer, ASRPPOConfig, **ASR_OPTIONS), 3e-4, "ppo"),
    online("r3hf-ppo", proximal(R3HFPPOTrainer, R3HFPPOConfig), 3e-4, "ppo"),
    online("segment-ppo", segment_ppo("segment reward", SegmentPPOConfig), 3e-4, "ppo", "segment reward"),
    online("token-ppo", segment_ppo("token reward", TokenPPOConfig), 3e-4, "ppo", "token reward"),
]
