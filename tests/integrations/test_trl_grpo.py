"""Segment credit in TRL's GRPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel import integrations
from segkernel.integrations.trl import Credit, SegmentCredit, heads, prefix_rewards
from segkernel.ops.linear_token_logprobs import linear_token_logprobs

pytestmark = [pytest.mark.usefixtures("trl"), pytest.mark.packages]

Make = Any


@pytest.fixture
def make(trl: Path, tmp_path: Path) -> Make:
    """Makes a trainer of two samples per prompt, with these token rewards."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from tests.integrations.trl_runs import TOKENIZER, model, settings
    from tests.training.trainer_helpers import prompts

    class Trainer(SegmentCredit, GRPOTrainer):
        pass

    def make(token_rewards: Any, credit: Credit) -> Any:
        return Trainer(
            model(),
            lambda completions, **_: [float(len(set(text))) for text in completions],
            args=GRPOConfig(**settings(tmp_path, num_generations=2, max_completion_length=6, beta=0.0)),
            train_dataset=Dataset.from_list(prompts(8)),
            processing_class=TOKENIZER,
            token_rewards=token_rewards,
            credit=credit,
        )

    return make


TOOLS = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]])


def batch() -> dict[str, Any]:
    """Two completions to one prompt, with advantages +2 and -2; the last token of the second is padding."""
    return {
        "prompt_ids": torch.tensor([[5, 6], [5, 6]]),
        "prompt_mask": torch.ones(2, 2, dtype=torch.int64),
        "completion_ids": torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]]),
        "completion_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "advantages": torch.tensor([2.0, -2.0]),
        "tool_mask": TOOLS,
    }


def rewards_of(values: list[list[float]]) -> Any:
    return lambda input_ids, attention_mask, mask: torch.tensor(values)


NAN = float("nan")


def test_mask_keeps_segments_that_agree_with_the_advantage(make: Make) -> None:
    trainer = make(rewards_of([[1.0, 1.0, NAN, -1.0], [1.0, NAN, -1.0, NAN]]), Credit(delta=0.5))
    output = trainer._with_segment_credit(batch())
    assert output["tool_mask"].tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]
    assert output["advantages"].tolist() == [2.0, -2.0]
    assert trainer._metrics["train"] == {"segments/count": [2.0], "segments/kept": [3 / 5]}


def test_advantages_of_turns_are_relative_to_all_turns_of_the_group(make: Make) -> None:
    """Turn rewards 3, 5 and 1, 7 (the sums of their tokens'), mean 4; half of TRL's own advantages is added."""
    credit = Credit("advantages", segments="turns", reduce="sum", scale=False, sequence_weight=0.5)
    trainer = make(rewards_of([[1.0, 2.0, NAN, 5.0], [1.0, NAN, 7.0, NAN]]), credit)
    output = trainer._with_segment_credit(batch())
    assert output["advantages"].tolist() == [[0.0, 0.0, 0.0, 2.0], [-4.0, 0.0, 2.0, 0.0]]
    assert torch.equal(output["tool_mask"], TOOLS)


def test_segments_by_entropy_start_at_tokens_of_high_entropy(make: Make) -> None:
    inputs = batch() | {"tool_mask": torch.ones(2, 4, dtype=torch.int64)}
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    trainer = make(rewards_of([[1.0, 2.0, 3.0, 4.0]] * 2), Credit("advantages", "entropy", entropy_threshold=1.0))
    with torch.no_grad():
        logits = trainer.model(ids).logits[0, 1:-1]
    entropies = torch.distributions.Categorical(logits=logits).entropy()
    threshold = (entropies[1:].min() + entropies[1:].max()).item() / 2
    trainer.credit = Credit("advantages", "entropy", entropy_threshold=threshold, scale=False)
    advantages = trainer._with_segment_credit(inputs)["advantages"][0]
    starts = (advantages[1:] != advantages[:-1]).tolist()
    assert starts == (entropies[1:] > threshold).tolist()
    assert 0 < sum(starts) < 3


def test_prefix_rewards_of_a_completion_add_up_to_its_score_above_the_prompt(make: Make) -> None:
    from tests.integrations.trl_runs import TOKENIZER
    from tests.training.trainer_helpers import tiny_reward_model

    reward_model = tiny_reward_model(TOKENIZER).eval()
    inputs = batch()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = inputs["completion_mask"].bool()
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    rewards = prefix_rewards(reward_model)(ids, attention, mask)
    scores: Tensor = reward_model(ids, attention).logits[..., 0]
    torch.testing.assert_close(rewards.sum(1), torch.stack([scores[0, 5], scores[1, 4]]) - scores[:, 1])
    assert rewards[1, 3] == 0


def test_token_rewards_and_reward_models_of_another_shape_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match=r"^token_rewards: expected rewards \[2, 4\], .*, got \[1, 2\]$"):
        make(rewards_of([[1.0, 2.0]]), Credit(delta=0.5))._with_segment_credit(batch())
    from types import SimpleNamespace

    pooled = prefix_rewards(lambda **_: SimpleNamespace(logits=torch.zeros(2, 1)))
    with pytest.raises(ValueError, match=r"^reward_model: expected logits \[2, 6, 1\], .*, got \[2, 1\]$"):
        pooled(torch.zeros(2, 6), torch.ones(2, 6), torch.ones(2, 4))


@pytest.mark.parametrize("use", ["mask", "advantages"])
def test_training_on_segments_differs_from_plain_grpo_only_by_the_credit(make: Make, use: Any) -> None:
    """Equal positive token rewards: the mask drops completions of negative advantage; advantages of segments are 0."""
    credit = Credit(use, delta=0.5, sequence_weight=1.0)
    trainer = make(lambda ids, attention, mask: torch.ones(mask.shape), credit)
    losses = []
    original = trainer._compute_loss

    def compute_loss(model: Any, inputs: dict[str, Any]) -> Tensor:
        inputs = dict(inputs)
        loss: Tensor = original(model, inputs)
        plain = {**inputs}
        if use == "mask":
            kept = inputs["tool_mask"].bool()
            positive = (inputs["advantages"] > 0)[:, None] & inputs["completion_mask"].bool()
            assert torch.equal(kept, positive)
        else:  # segments of equal rewards have an advantage of 0, which leaves TRL's own
            assert inputs["advantages"].dim() == 2
            plain["advantages"] = inputs["advantages"][:, 0]
        losses.append((loss.item(), original(model, plain).item()))
        return loss

    trainer._compute_loss = compute_loss
    trainer.train()
    assert len(losses) == 2
    for loss, expected in losses:
        assert loss == pytest.approx(expected, abs=1e-6)
    assert ["segments/kept" in log for log in trainer.state.log_history if "loss" in log] == [True, True]


@pytest.mark.parametrize("kept", [[[1, 1, 0, 0], [0, 0, 1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]], ids=["3", "none"])
def test_masked_tokens_stay_out_of_the_head_of_the_loss(
    make: Make, kept: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL sends all 7 completion tokens through its head; NaN and infinity are the log-probs of the others."""
    from trl import GRPOTrainer

    trainer = make(rewards_of([]), Credit(delta=0.5))
    trainer.beta = 0.1
    trainer.model.eval()
    mask = torch.tensor(kept)
    inputs = batch() | {"tool_mask": mask, "num_items_in_batch": torch.tensor(7)}
    inputs |= {"old_per_token_logps": torch.full((2, 4), -5.5), "ref_per_token_logps": torch.full((2, 4), -5.0)}
    bad = torch.tensor([NAN, float("-inf")])[:, None].expand(2, 4)
    poisoned = {name: inputs[name].where(mask > 0, bad) for name in inputs if name.endswith("logps")}
    rows: list[int] = []

    def counted(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(hidden))
        return linear_token_logprobs(hidden, *args, **kwargs)

    monkeypatch.setattr(heads, "linear_token_logprobs", counted)
    losses = []
    with integrations.patched("trl"):
        losses += [GRPOTrainer._compute_loss(trainer, trainer.model, inputs)]
        losses += [trainer._compute_loss(trainer.model, inputs | poisoned)]
    assert rows == [7, int(mask.sum())]
    losses += [trainer._compute_loss(trainer.model, inputs | poisoned)]  # TRL's own head
    assert rows == [7, int(mask.sum())]
    parameters = list(trainer.model.parameters())
    expected, *results = [(loss.detach(), *torch.autograd.grad(loss, parameters)) for loss in losses]
    assert (expected[0] != 0) == bool(mask.any())
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "delta: expected it or pivot_threshold for segments='trigger', got neither"),
        (
            {"segments": "entropy"},
            "entropy_threshold: expected one for segments='entropy' only, got None for 'entropy'",
        ),
        ({"use": "weights", "delta": 1.0}, "use: expected"),
    ],
)
def test_credit_refuses_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Credit(**options)
