"""Options of the DPO loss that hold the chosen response: the likelihood anchor, and less weight on the rejected one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from segkernel.training import DPOConfig, DPOTrainer
from segkernel.training.data.columns import SIDES
from tests.ops.plain_floats import logprobs_alone
from tests.training.trainer_helpers import QUICK_PAIRS, pairs, tiny_lm

ROWS: list[dict[str, Any]] = [
    {
        "prompt_ids": [5, 6],
        "chosen_ids": [7, 8, 9, 10],
        "rejected_ids": [12, 13, 14],
        "chosen_mask": [True, False, False, True],
        "rejected_mask": [False, True, False],
    },
    {
        "prompt_ids": [5],
        "chosen_ids": [7, 11],
        "rejected_ids": [8],
        "chosen_mask": [False, False],
        "rejected_mask": [False],
    },
]


@pytest.mark.parametrize("reverse", [False, True])
def test_dpo_loss_with_anchor_and_rejected_weight_matches_plain_floats(
    tmp_path: Path, tokenizer: Any, reverse: bool
) -> None:
    policy, reference = tiny_lm(tokenizer, seed=1), tiny_lm(tokenizer, seed=2)
    options = {"beta": 0.3, "rpo_alpha": 0.5, "rejected_weight": 0.25, "reverse": reverse}
    config = DPOConfig(str(tmp_path), **options, **QUICK_PAIRS)
    trainer = DPOTrainer(policy, config, ROWS, None, tokenizer, ref_model=reference)
    batch = trainer.data_collator(trainer.train_dataset)
    losses, metrics = trainer.pair_losses(policy, batch)
    losses.sum().backward()

    preferred, other = SIDES[::-1] if reverse else SIDES
    for index, row in enumerate(ROWS):
        logprobs, ratios, masked = {}, {}, {}
        for side in SIDES:
            ids = row["prompt_ids"], row[f"{side}_ids"]
            logprobs[side] = logprobs_alone(policy, *ids)
            ratios[side] = [p - q for p, q in zip(logprobs[side], logprobs_alone(reference, *ids), strict=True)]
            masked[side] = 0.3 * sum(r for r, kept in zip(ratios[side], row[f"{side}_mask"], strict=True) if kept)
            # The metrics are whole implicit rewards, whatever the weight.
            assert metrics[f"rewards/{side}"][index].item() == pytest.approx(0.3 * sum(ratios[side]), rel=1e-3)
            assert metrics[f"masked_rewards/{side}"][index].item() == pytest.approx(masked[side], rel=1e-3)
        # -log sigmoid(r_w - 0.25 r_l) - 0.5 mean log pi(y_w); the anchor reads tokens outside of the mask as well.
        nll = -sum(logprobs[preferred]) / len(logprobs[preferred])
        dpo = math.log1p(math.exp(0.25 * masked[other] - masked[preferred])) if any(row["chosen_mask"]) else 0.0
        assert losses[index].item() == pytest.approx(dpo + 0.5 * nll, rel=1e-4)
        assert metrics["nll_loss"][index].item() == pytest.approx(nll, rel=1e-4)
    assert not any(values.requires_grad for values in metrics.values())


def batch_and_logit_gradient(
    config: DPOConfig, rows: list[dict[str, Any]], tokenizer: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Batch of all pairs, and the gradient of their losses at the logits of every token, `[pairs, sides, T, V]`."""
    trainer = DPOTrainer(tiny_lm(tokenizer), config, rows, None, tokenizer)
    batch = trainer.data_collator(trainer.train_dataset)
    logits: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        output.logits.retain_grad()
        logits.append(output.logits)

    trainer.model.register_forward_hook(keep)
    losses, _ = trainer.pair_losses(trainer.model, batch)
    losses.sum().backward()
    gradient = torch.zeros(*batch["response_mask"].shape, logits[0].shape[-1])
    gradient[batch["response_mask"]] = logits[0].grad[0]  # [1, N, V]: the head runs for response tokens only
    return batch, gradient


def test_anchor_trains_all_of_the_chosen_and_none_of_the_dropped_rejected_tokens(
    tmp_path: Path, tokenizer: Any
) -> None:
    config = DPOConfig(str(tmp_path), rpo_alpha=1.0, **QUICK_PAIRS)
    batch, gradient = batch_and_logit_gradient(config, ROWS, tokenizer)
    trained = gradient.abs().sum(-1) > 0
    expected = batch["loss_mask"].clone()
    expected[:, 0] = batch["response_mask"][:, 0]
    assert torch.equal(trained, expected)


def test_anchored_step_with_empty_masks_is_taken(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{**ROWS[1], "prompt_ids": [5 + index]} for index in range(4)]
    skipped = {}
    for alpha in (0.0, 1.0):
        options = {**QUICK_PAIRS, "max_steps": 1, "rpo_alpha": alpha, "optim": "sgd", "learning_rate": 1.0}
        trainer = DPOTrainer(
            tiny_lm(tokenizer), DPOConfig(str(tmp_path / str(alpha)), **options), rows, None, tokenizer
        )
        head = trainer.model.lm_head.weight.detach().clone()
        trainer.train()
        log = next(log for log in trainer.state.log_history if "loss" in log)
        skipped[alpha] = log["skipped_steps"], torch.equal(head, trainer.model.lm_head.weight)
    assert skipped == {0.0: (1, True), 1.0: (0, False)}


def test_rejected_weight_of_0_gives_the_rejected_response_no_gradient(tmp_path: Path, tokenizer: Any) -> None:
    config = DPOConfig(str(tmp_path), rejected_weight=0.0, **QUICK_PAIRS)
    _, gradient = batch_and_logit_gradient(config, pairs(4), tokenizer)
    chosen, rejected = gradient.abs().sum((0, 2, 3))
    assert chosen > 0
    assert rejected == 0
