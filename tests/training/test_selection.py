"""Methods that select tokens, against literal transcriptions of their rules, one response at a time.

The transcriptions use plain torch on single sequences; losses and gradients are compared with the trainers'.
"""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkernel import _cli as cli
from segkernel.training import (
    ConfPOConfig,
    ConfPOTrainer,
    DPOConfig,
    DPOTrainer,
    EntropyPPOConfig,
    EntropyPPOTrainer,
    PPOConfig,
    PPOTrainer,
    RandomDPOConfig,
    RandomDPOTrainer,
    RandomPPOConfig,
    RandomPPOTrainer,
    RandomRFTConfig,
    RandomRFTTrainer,
    SePOConfig,
    SePOTrainer,
    SimPOConfig,
    SimPOTrainer,
    SLMRFTConfig,
    SLMRFTTrainer,
    TISDPOConfig,
    TISDPOTrainer,
)
from segkernel.training.data.columns import SIDES
from segkernel.training.selection.random_tokens import random_mask, random_tokens
from tests.training.trainer_helpers import (
    QUICK,
    QUICK_PAIRS,
    assert_resumes_to_the_same_bits,
    tiny_lm,
    tiny_tokenizer,
    write_files,
)

EOS = 1
# Responses of 1 to 12 tokens; the last pair's chosen response is one token, the EOS.
ROWS: list[dict[str, Any]] = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [*range(20, 31), EOS], "rejected_ids": [40, 41, 42, 43, 44, 45, EOS]},
    {"prompt_ids": [8], "chosen_ids": [50, 9, 51, 9, 52], "rejected_ids": [*range(60, 69), EOS]},
    {"prompt_ids": [9, 10], "chosen_ids": [EOS], "rejected_ids": [70, 71, 72, EOS]},
]
SELECTED: dict[str, tuple[type, type]] = {
    "simpo": (SimPOConfig, SimPOTrainer),
    "confpo": (ConfPOConfig, ConfPOTrainer),
    "sepo": (SePOConfig, SePOTrainer),
    "dpo": (DPOConfig, DPOTrainer),
    "random-dpo": (RandomDPOConfig, RandomDPOTrainer),
    "tis-dpo": (TISDPOConfig, TISDPOTrainer),
}


def lm(tokenizer: Any, seed: int) -> Any:
    """Model whose distributions differ from token to token."""
    model = tiny_lm(tokenizer, seed)
    model.lm_head.weight.data *= 20
    return model.eval()


def logprobs_of(model: nn.Module, prompt: list[int], response: list[int]) -> Tensor:
    """log pi(y_t | x, y_<t) of every response token, `[T]`, with a gradient."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return F.log_softmax(logits, dim=-1)[range(len(response)), response]


def make(method: str, directory: Path, tokenizer: Any, rows: Any = ROWS, **options: Any) -> Any:
    """Trainer on `rows`; the policy, its reference and the two DPO models differ."""
    config_type, trainer_type = SELECTED[method]
    teachers = {"sepo": {"dpo_model": 3}, "tis-dpo": {"dpo_model": 3, "reverse_dpo_model": 4}}.get(method, {})
    return trainer_type(
        lm(tokenizer, 1),
        config_type(str(directory), **{**QUICK_PAIRS, **options}),
        rows,
        rows,
        tokenizer,
        ref_model=lm(tokenizer, 2),
        **{name: lm(tokenizer, seed) for name, seed in teachers.items()},
    )


def assert_loss_and_gradient(
    trainer: Any, expected: Callable[[nn.Module, dict[str, Any]], Tensor], rows: list[dict[str, Any]]
) -> dict[str, Tensor]:
    """Compare the losses of the pairs and the gradient of their sum with a transcription; returns the metrics."""
    plain = copy.deepcopy(trainer.model)
    trainer.model.zero_grad()
    losses, metrics = trainer.pair_losses(trainer.model, trainer.data_collator(trainer.train_dataset))
    by_hand = torch.stack([expected(plain, row) for row in rows])
    torch.testing.assert_close(losses, by_hand, rtol=1e-4, atol=1e-6)
    losses.sum().backward()
    by_hand.sum().backward()
    for (name, found), (_, wanted) in zip(trainer.model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert max(float(p.grad.abs().max()) for p in plain.parameters()) > 1e-3
    found_metrics: dict[str, Tensor] = metrics
    return found_metrics


def whole_rewards(row: dict[str, Any], beta: float, models: tuple[nn.Module, nn.Module]) -> list[float]:
    """Implicit rewards of both whole responses."""
    with torch.no_grad():
        pairs = [
            [logprobs_of(model, row["prompt_ids"], row[f"{side}_ids"]).sum() for model in models] for side in SIDES
        ]
    return [beta * float(policy - reference) for policy, reference in pairs]


# --- random choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "piece_length"), [(0.3, 1.0), (0.3, 5.0), (0.75, 8.0)])
def test_random_tokens_have_the_share_and_the_piece_length(share: float, piece_length: float) -> None:
    chosen = random_tokens(40_000, share, piece_length, (3, 1))
    assert chosen.mean() == pytest.approx(share, rel=0.1)
    # Pieces next to each other may both be chosen: a run of chosen tokens has piece_length / (1 - share) on average.
    runs = np.flatnonzero(np.diff(chosen.astype(int)) == 1)
    assert chosen.sum() / len(runs) == pytest.approx(piece_length / (1 - share), rel=0.1)


def test_random_tokens_are_a_function_of_the_key() -> None:
    first = random_tokens(64, 0.5, 1.0, (0, 0, 0))
    assert (random_tokens(64, 0.5, 1.0, (0, 0, 0)) == first).all()
    for key in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert (random_tokens(64, 0.5, 1.0, key) != first).any()
    assert random_tokens(5, 1.0, 3.0, (0,)).all()
    assert random_tokens(0, 0.5, 1.0, (0,)).shape == (0,)


def test_random_mask_is_the_same_wherever_a_row_is_padded() -> None:
    right = torch.tensor([[0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0]]).bool()
    left = right.roll(2, dims=1)
    masks = [random_mask(mask, (0.5,) * 3, 1.0, [(0, row) for row in range(3)]) for mask in (right, left)]
    assert torch.equal(masks[0].roll(2, dims=1), masks[1])
    assert not (masks[0] & ~right).any()
    assert masks[0][0, 1:5].tolist() == random_tokens(4, 0.5, 1.0, (0, 0)).tolist()


def test_random_dpo_loss_is_dpo_on_the_chosen_tokens(tmp_path: Path) -> None:
    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        trainer = make("random-dpo", tmp_path, tokenizer, share=0.6, rejected_share=0.3, seed=5)
        rows = [dict(row) for row in trainer.train_dataset]
        for index, row in enumerate(rows):
            for side, (name, share) in enumerate(zip(SIDES, (0.6, 0.3), strict=True)):
                assert (
                    row[f"{name}_mask"]
                    == random_tokens(len(row[f"{name}_ids"]), share, 1.0, (5, 0, index, side)).tolist()
                )
        reference = lm(tokenizer, 2)

        def loss(policy: nn.Module, row: dict[str, Any], reference: nn.Module = reference) -> Tensor:
            terms = []
            for side in SIDES:
                ids, kept = (row["prompt_ids"], row[f"{side}_ids"]), torch.tensor(row[f"{side}_mask"])
                terms.append((logprobs_of(policy, *ids) - logprobs_of(reference, *ids).detach())[kept].sum())
            if not any(map(any, (row["chosen_mask"], row["rejected_mask"]))):
                return torch.zeros(())
            return -F.logsigmoid(0.1 * (terms[0] - terms[1]))

        metrics = assert_loss_and_gradient(trainer, loss, rows)
        rewards = [whole_rewards(row, 0.1, (trainer.model, reference)) for row in rows]
        assert metrics["rewards/chosen"].tolist() == pytest.approx([chosen for chosen, _ in rewards], rel=1e-3)
        assert metrics["kept_chosen"].tolist() == pytest.approx([np.mean(row["chosen_mask"]) for row in rows])
        assert "masked_rewards/accuracies" in metrics
    # The held-out rows have tokens of their own.
    assert trainer.eval_dataset[0]["chosen_mask"] != trainer.train_dataset[0]["chosen_mask"]


def test_random_dpo_at_share_1_has_the_loss_of_dpo(tmp_path: Path, tokenizer: Any) -> None:
    losses = []
    for method, options in {"dpo": {}, "random-dpo": {"share": 1.0, "piece_length": 3.0}}.items():
        trainer = make(method, tmp_path, tokenizer, **options)
        losses.append(trainer.pair_losses(trainer.model, trainer.data_collator(trainer.train_dataset))[0])
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("method", ["random-dpo", "sepo", "tis-dpo", "confpo"])
def test_selection_chooses_among_the_tokens_of_a_rows_own_mask(tmp_path: Path, tokenizer: Any, method: str) -> None:
    options = {"random-dpo": {"share": 0.9}, "sepo": {"fraction": 0.5}}
    masks = [{"chosen_mask": [i % 2 == 0 for i in range(len(row["chosen_ids"]))]} for row in ROWS[:2]]
    rows = [{**row, **mask} for row, mask in zip(ROWS, masks, strict=False)]
    trainer = make(method, tmp_path, tokenizer, rows, **options.get(method, {}))
    batch = trainer.data_collator(trainer.train_dataset)
    selected = batch["loss_mask"]
    if method == "confpo":
        with torch.no_grad():
            logits = trainer.model(batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1)).logits
        selected = trainer.selected(logits, batch)
    for index, row in enumerate(rows):
        kept = selected[index, 0][batch["response_mask"][index, 0]].tolist()
        assert any(kept)
        assert not any(k and not own for k, own in zip(kept, row["chosen_mask"], strict=True))


def test_random_rft_trains_on_the_chosen_tokens(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    trainer = rft(RandomRFTConfig, RandomRFTTrainer, tmp_path, tokenizer, share=0.5, piece_length=2.0, seed=3)
    rows = [dict(row) for row in trainer.train_dataset]
    assert [row["mask"] for row in rows] == [
        random_tokens(len(row["response_ids"]), 0.5, 2.0, (3, index)).tolist() for index, row in enumerate(rows)
    ]
    kept = sum(sum(row["mask"]) for row in rows)
    total = sum(len(row["mask"]) for row in rows)
    assert f"selection: {100 * kept / total:.0f} % of the accepted responses' tokens are trained on" in caplog.text
    terms = [logprobs_of(trainer.model, row["prompt_ids"], row["response_ids"])[row["mask"]] for row in rows]
    loss = trainer.compute_loss(trainer.model, trainer.collate(trainer.train_dataset))
    assert loss.item() == pytest.approx(-torch.cat(terms).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="share: no token of any accepted response is selected; got 1e-09"):
        rft(RandomRFTConfig, RandomRFTTrainer, tmp_path, tokenizer, share=1e-9)


# --- preference pairs ------------------------------------------------------------------------------------------------


def test_simpo_loss_matches_mean_log_probabilities(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make("simpo", tmp_path, tokenizer, beta=0.7, gamma=0.3)

    def loss(policy: nn.Module, row: dict[str, Any]) -> Tensor:
        chosen, rejected = (logprobs_of(policy, row["prompt_ids"], row[f"{side}_ids"]).mean() for side in SIDES)
        return -F.logsigmoid(0.7 * (chosen - rejected) - 0.3)

    metrics = assert_loss_and_gradient(trainer, loss, ROWS)
    assert metrics["kept_chosen"].tolist() == [1.0] * 3
    rewards = [whole_rewards(row, 0.7, (trainer.model, lm(tokenizer, 2))) for row in ROWS]
    assert metrics["rewards/rejected"].tolist() == pytest.approx([rejected for _, rejected in rewards], rel=1e-3)
    assert metrics["rewards/accuracies"].tolist() == [chosen > rejected for chosen, rejected in rewards]
    means = [logprobs_of(trainer.model, row["prompt_ids"], row["chosen_ids"]).mean().item() for row in ROWS]
    assert metrics["masked_rewards/chosen"].tolist() == pytest.approx([0.7 * mean for mean in means], rel=1e-4)
    assert not metrics["masked_rewards/margins"].requires_grad


def test_confpo_loss_matches_its_rule(tmp_path: Path) -> None:
    kept: list[list[float]] = []

    def loss(policy: nn.Module, row: dict[str, Any]) -> Tensor:
        means = []
        for side in SIDES:
            logprobs = logprobs_of(policy, row["prompt_ids"], row[f"{side}_ids"])
            threshold = math.log(sum(map(math.exp, logprobs.tolist())) / len(logprobs))
            below = [t for t, logprob in enumerate(logprobs.tolist()) if logprob < threshold]
            kept.append([len(below) / len(logprobs)])
            means.append(logprobs[below].mean() if below else None)
        if None in means:
            return torch.zeros(())
        return -F.logsigmoid(1.5 * (means[0] - means[1]) - 1.6)

    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        kept.clear()
        metrics = assert_loss_and_gradient(make("confpo", tmp_path, tokenizer), loss, ROWS)
        shares = torch.tensor(kept).view(3, 2)
        # The one token of the last pair's chosen response is not below its own mean.
        assert shares[2].tolist()[0] == 0
        assert metrics["empty_pairs"].tolist() == [0, 0, 1]
        shares[2] = 0
        torch.testing.assert_close(torch.stack([metrics["kept_chosen"], metrics["kept_rejected"]], 1), shares)


def test_confpo_selects_by_the_current_policy(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make("confpo", tmp_path, tokenizer, ROWS[:2])
    batch = trainer.data_collator(trainer.train_dataset)
    before = trainer.pair_losses(trainer.model, batch)[1]["kept_chosen"]
    trainer.model.load_state_dict(lm(tokenizer, 9).state_dict())
    after = trainer.pair_losses(trainer.model, batch)[1]["kept_chosen"]
    assert before.tolist() != after.tolist()


def test_step_over_pairs_with_an_empty_side_is_skipped(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make("confpo", tmp_path, tokenizer, ROWS[2:], max_steps=1, weight_decay=0.1)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    (log,) = (log for log in trainer.state.log_history if "loss" in log)
    assert (log["loss"], log["empty_pairs"], log["kept_rejected"], log["skipped_steps"]) == (0.0, 1.0, 0.0, 1)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def sepo_masks(row: dict[str, Any], dpo: nn.Module, reference: nn.Module, fraction: float) -> dict[str, list[int]]:
    """Positions of the selected tokens: n = floor(fraction * T) of the largest or smallest scores."""
    found = {}
    for side in SIDES:
        ids = row["prompt_ids"], row[f"{side}_ids"]
        with torch.no_grad():
            scores = (logprobs_of(dpo, *ids) - logprobs_of(reference, *ids)).tolist()
        order = sorted(range(len(scores)), key=lambda t: -scores[t] if side == "chosen" else scores[t])
        found[side] = sorted(order[: math.floor(fraction * len(scores))])
    return found


def test_sepo_loss_matches_its_rule(tmp_path: Path, caplog: Any) -> None:
    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        caplog.clear()
        trainer = make("sepo", tmp_path, tokenizer)
        dpo, reference = lm(tokenizer, 3), lm(tokenizer, 2)

        def loss(policy: nn.Module, row: dict[str, Any], dpo: Any = dpo, reference: Any = reference) -> Tensor:
            positions = sepo_masks(row, dpo, reference, 0.3)
            if not (positions["chosen"] and positions["rejected"]):
                return torch.zeros(())
            chosen, rejected = (
                logprobs_of(policy, row["prompt_ids"], row[f"{side}_ids"])[positions[side]].mean() for side in SIDES
            )
            return -F.logsigmoid(chosen - rejected)

        metrics = assert_loss_and_gradient(trainer, loss, ROWS)
        # floor(0.3 * 12), floor(0.3 * 7); floor(0.3 * 5), floor(0.3 * 10); one token gives none.
        assert metrics["kept_chosen"].tolist() == pytest.approx([3 / 12, 1 / 5, 0])
        assert metrics["kept_rejected"].tolist() == pytest.approx([2 / 7, 3 / 10, 0])
        assert metrics["empty_pairs"].tolist() == [0, 0, 1]
        assert (
            "selection: 22 % of the chosen and 24 % of the rejected responses' tokens are trained on; 1 of 3 pairs "
            "keep no token" in caplog.text
        )
        rewards = [whole_rewards(row, 1.0, (trainer.model, reference)) for row in ROWS]
        assert metrics["rewards/margins"].tolist() == pytest.approx([w - r for w, r in rewards], rel=1e-3)
        for row, stored in zip(ROWS, trainer.train_dataset, strict=True):
            positions = sepo_masks(row, dpo, reference, 0.3)
            if all(positions.values()):
                assert all(np.flatnonzero(stored[f"{side}_mask"]).tolist() == positions[side] for side in SIDES)


def test_sepo_scores_are_relative_to_the_model_at_the_start(tmp_path: Path, tokenizer: Any) -> None:
    config = SePOConfig(str(tmp_path), **QUICK_PAIRS)
    trainer = SePOTrainer(lm(tokenizer, 1), config, ROWS, None, tokenizer, dpo_model=lm(tokenizer, 3))
    ids = ROWS[0]["prompt_ids"], ROWS[0]["chosen_ids"]
    with torch.no_grad():
        scores = logprobs_of(lm(tokenizer, 3), *ids) - logprobs_of(lm(tokenizer, 1), *ids)
    assert trainer.train_dataset[0]["chosen_token_rewards"] == pytest.approx(scores.tolist(), rel=1e-3, abs=1e-4)


def test_sepo_refuses_a_fraction_that_selects_nothing(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="fraction: no token of any training pair is selected, so there is nothing"):
        make("sepo", tmp_path, tokenizer, fraction=0.05)


def test_tis_dpo_loss_matches_its_rule(tmp_path: Path) -> None:
    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        trainer = make("tis-dpo", tmp_path, tokenizer)
        reference, dpo, reverse = (lm(tokenizer, seed) for seed in (2, 3, 4))
        seen: list[float] = []

        def weights(
            row: dict[str, Any], side: str, dpo: Any = dpo, reverse: Any = reverse, seen: list[float] = seen
        ) -> list[float]:
            ids = row["prompt_ids"], row[f"{side}_ids"]
            with torch.no_grad():
                ratios = (logprobs_of(dpo, *ids) - logprobs_of(reverse, *ids)).tolist()
            sign = 1 if side == "chosen" else -1
            found = [0.7 + (min(max(sign * d, -1.5), 1.5) + 1.5) * 0.2 for d in ratios]
            found = [0.0 if token == EOS else weight for token, weight in zip(ids[1], found, strict=True)]
            seen.extend(found)
            return found

        def loss(policy: nn.Module, row: dict[str, Any], reference: Any = reference, weights: Any = weights) -> Tensor:
            terms = []
            for side in SIDES:
                ids = row["prompt_ids"], row[f"{side}_ids"]
                ratios = logprobs_of(policy, *ids) - logprobs_of(reference, *ids).detach()
                terms.append((torch.tensor(weights(row, side)) * ratios).sum())
            return -F.logsigmoid(0.1 * (terms[0] - terms[1]))

        metrics = assert_loss_and_gradient(trainer, loss, ROWS)
        assert min(w for w in seen if w) == pytest.approx(0.7)
        assert max(seen) == pytest.approx(1.3)
        assert len({round(weight, 4) for weight in seen}) > 5
        # 11 of 12 tokens, all 5, none of 1: the EOS is left out, and it is all of the last chosen response.
        assert metrics["kept_chosen"].tolist() == pytest.approx([11 / 12, 1, 0])
        assert metrics["empty_pairs"].tolist() == [0, 0, 0]
        mean = sum(weights(ROWS[0], "rejected")) / 6
        assert metrics["token_weight/rejected"][0].item() == pytest.approx(mean, rel=1e-4)
        rewards = [whole_rewards(row, 0.1, (trainer.model, reference)) for row in ROWS]
        assert metrics["rewards/chosen"].tolist() == pytest.approx([chosen for chosen, _ in rewards], rel=1e-3)


def test_tis_dpo_without_a_known_eos_says_so(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    policy = lm(tokenizer, 1)
    policy.generation_config.eos_token_id = None
    teachers = {"dpo_model": lm(tokenizer, 3), "reverse_dpo_model": lm(tokenizer, 4)}
    trainer = TISDPOTrainer(policy, TISDPOConfig(str(tmp_path), **QUICK_PAIRS), ROWS, **teachers)
    assert "token weights: no EOS is known" in caplog.text
    assert trainer.train_dataset[2]["chosen_token_weights"][0] >= 0.7


@pytest.mark.parametrize("method", ["sepo", "tis-dpo"])
def test_scoring_models_with_nan_or_other_tokens_are_refused(tmp_path: Path, tokenizer: Any, method: str) -> None:
    config_type, trainer_type = SELECTED[method]
    config, policy, broken = config_type(str(tmp_path), **QUICK_PAIRS), lm(tokenizer, 1), lm(tokenizer, 3)
    broken.lm_head.weight.data.fill_(math.nan)
    other = {"reverse_dpo_model": lm(tokenizer, 4)} if method == "tis-dpo" else {}
    with pytest.raises(ValueError, match="dpo_model: expected finite log-probabilities, got NaN or infinity"):
        trainer_type(policy, config, ROWS, None, tokenizer, dpo_model=broken, **other)
    with pytest.raises(
        ValueError, match="dpo_model: expected a frozen model of its own, got the model that is trained"
    ):
        trainer_type(policy, config, ROWS, None, tokenizer, dpo_model=policy, **other)


def test_reports_show_the_scores_and_the_selected_tokens(tmp_path: Path, tokenizer: Any) -> None:
    for method in ("sepo", "tis-dpo"):
        trainer = make(method, tmp_path, tokenizer, report_pairs=2)
        samples = trainer.report_examples()
        assert [sample.label for sample in samples] == ["chosen", "rejected"] * 2
        row = trainer.eval_dataset[1]
        assert samples[3].token_rewards == row["rejected_token_rewards"]
        assert samples[3].kept == row["rejected_mask"]
        assert samples[3].score == pytest.approx(sum(row["rejected_token_rewards"]))
        assert len(samples[3].tokens) == 10


# --- sampled responses -----------------------------------------------------------------------------------------------

PROMPTS = [[5, 6, 7], [8], [9, 10]]
RESPONSES = [[11, 12, 21, 22, 23, EOS], [EOS], [13, 14, 15, 16]]
SAMPLED: dict[str, Any] = {**QUICK, "max_new_tokens": 6, "max_prompt_length": 16}


def token_scores(batch: dict[str, Tensor]) -> Tensor:
    """Scores that go up and down within a response."""
    return ((batch["input_ids"] % 7 - 3.0) * batch["response_mask"]).cumsum(1) / 3


def rft(config_type: Any, trainer_type: Any, directory: Path, tokenizer: Any, **options: Any) -> Any:
    """Trainer of rejection sampling that accepts `RESPONSES`."""
    models = {name: options.pop(name) for name in ("ref_model",) if name in options}

    class Answered(trainer_type):
        def sample(self, *args: Any, **kwargs: Any) -> list[list[int]]:
            return RESPONSES

    config = config_type(str(directory), **{**SAMPLED, "samples": 1, **options})
    rows = [{"prompt_ids": ids} for ids in PROMPTS]
    return Answered(lm(tokenizer, 1), config, rows, None, tokenizer, reward_model=token_scores, **models)


def test_slm_rft_loss_matches_its_rule(tmp_path: Path) -> None:
    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        trainer = rft(SLMRFTConfig, SLMRFTTrainer, tmp_path, tokenizer, ref_model=lm(tokenizer, 2))
        plain, reference = copy.deepcopy(trainer.model), lm(tokenizer, 2)
        losses: list[Tensor] = []
        excess: list[float] = []
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            losses += (-logprobs_of(plain, prompt, response)).unbind()
            excess += (-logprobs_of(plain, prompt, response) + logprobs_of(reference, prompt, response)).tolist()
        # The largest ceil(0.6 * 11) of the batch.
        selected = sorted(range(11), key=lambda token: -excess[token])[:7]
        expected = torch.stack([losses[token] for token in selected]).mean()
        loss = trainer.compute_loss(trainer.model, trainer.collate(trainer.train_dataset))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        loss.backward()
        expected.backward()
        for found, wanted in zip(trainer.model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5)
        logs = {"loss": 0.0}
        trainer.log(logs)
        assert logs["kept"] == pytest.approx(7 / 11)
    # At another step another choice: by the policy as it is then.
    batch = trainer.collate(trainer.train_dataset)
    masks = []
    for seed in (1, 9):
        with torch.no_grad():
            logits = lm(tokenizer, seed)(batch["input_ids"], batch["attention_mask"]).logits
        masks.append(trainer.trained_tokens(logits, batch))
    assert [int(mask.sum()) for mask in masks] == [7, 7]
    assert not torch.equal(*masks)


def test_slm_rft_step_is_a_mean_over_the_tokens_of_its_micro_batches(tmp_path: Path, tokenizer: Any) -> None:
    trainer = rft(SLMRFTConfig, SLMRFTTrainer, tmp_path, tokenizer, ref_model=lm(tokenizer, 2))
    batches = [trainer.collate([row]) for row in trainer.train_dataset]
    items = trainer.total_items(batches)
    assert items["tokens"].item() == 4 + 1 + 3  # ceil(0.6 * 6), ceil(0.6 * 1), ceil(0.6 * 4)


def ppo(config_type: Any, trainer_type: Any, directory: Path, tokenizer: Any, **options: Any) -> Any:
    rows = [{"prompt_ids": ids} for ids in PROMPTS]
    config = config_type(str(directory), **{**SAMPLED, "per_device_train_batch_size": 3, **options})
    trainer = trainer_type(
        lm(tokenizer, 1), config, rows, None, tokenizer, ref_model=lm(tokenizer, 2), reward_model=token_scores
    )
    trainer.sample = lambda prompts, keys: RESPONSES
    return trainer


def test_entropy_ppo_loss_matches_its_rule(tmp_path: Path) -> None:
    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        trainer = ppo(EntropyPPOConfig, EntropyPPOTrainer, tmp_path, tokenizer, value_coef=0.0)
        rollout = trainer.collect(PROMPTS, [(0, 0, row) for row in range(3)])
        # The update is by another policy than the one that sampled, whose entropies count.
        trainer.model.policy.load_state_dict(lm(tokenizer, 6).state_dict())
        trainer.model.eval()
        plain = copy.deepcopy(trainer.model.policy)
        entropies: list[float] = []
        losses: list[Tensor] = []
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            logits = plain(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
            distribution = torch.distributions.Categorical(logits=logits)
            entropies += distribution.entropy().tolist()
            kept = rollout["response_mask"][row]
            advantages, old = rollout["advantages"][row][kept], rollout["logprobs"][row][kept]
            ratio = (distribution.log_prob(torch.tensor(response)) - old).exp()
            losses += (-torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)).unbind()
        selected = sorted(range(11), key=lambda token: -entropies[token])[:3]  # ceil(0.2 * 11)
        expected = torch.stack([losses[token] for token in selected]).mean()
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, rollout)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        loss.backward()
        expected.backward()
        for found, wanted in zip(trainer.model.policy.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5)
        logs = {"loss": 0.0}
        trainer.log(logs)
        assert logs["kept"] == pytest.approx(3 / 11)
    parts = [{name: values[row : row + 1] for name, values in rollout.items()} for row in range(3)]
    items = trainer.total_items(parts)
    assert (items["policy"].item(), items["response"].item()) == (2 + 1 + 1, 11)


def test_ppo_on_selected_tokens_keeps_the_value_loss_of_all(tmp_path: Path, tokenizer: Any) -> None:
    logged = []
    for config_type, trainer_type in (
        (PPOConfig, PPOTrainer),
        (EntropyPPOConfig, EntropyPPOTrainer),
        (RandomPPOConfig, RandomPPOTrainer),
    ):
        trainer = ppo(config_type, trainer_type, tmp_path, tokenizer)
        rollout = trainer.collect(PROMPTS, [(7, 2, row) for row in range(3)])
        trainer.compute_loss(trainer.model, rollout)
        logs = {"loss": 0.0}
        trainer.log(logs)
        logged.append(logs)
    assert logged[0]["loss/value"] == logged[1]["loss/value"] == logged[2]["loss/value"] > 0
    assert logged[0]["kept"] == 1
    masks = [random_tokens(len(response), 0.5, 1.0, (7, 2, row)) for row, response in enumerate(RESPONSES)]
    for row, mask in enumerate(masks):
        assert rollout["policy_mask"][row][rollout["response_mask"][row]].tolist() == mask.tolist()
    assert logged[2]["kept"] == pytest.approx(sum(map(sum, masks)) / 11)


def test_random_dpo_logs_the_shares(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make("random-dpo", tmp_path, tokenizer, share=1.0, rejected_share=0.4, piece_length=4.0)
    kept = np.mean([token for row in trainer.train_dataset for token in row["rejected_mask"]])
    assert f"selection: 100 % of the chosen and {100 * kept:.0f} % of the rejected" in caplog.text


# --- runs ------------------------------------------------------------------------------------------------------------


def test_methods_that_select_tokens_run_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    common = ["--model", files["lm"], "--max_steps=1", "--use_cpu", "--disable_tqdm=True", "--eval_fraction=0.2"]
    pair = ["--preferences", files["preferences"], "--max_length=64"]
    prompt = ["--prompts", files["preferences"], "--reward_model", files["rm"], "--max_new_tokens=4"]
    prompt += ["--max_prompt_length=32", "--eval_strategy=no"]
    lora = ["--peft=lora", "--target_modules", "q_proj"]
    options = {
        "sepo": [*pair, *lora, f"--dpo_model={files['lm']}"],
        "slm-rft": [*prompt, f"--ref_model={files['lm']}", "--samples=2"],
        "random-ppo": [*prompt, *lora, "--rollout_epochs=1"],
    }
    for method, given in options.items():
        output = tmp_path / method
        assert cli.main(["train", method, *common, *given, "--output_dir", str(output)]) == 0, method
        state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
        logs = {name: value for log in state["log_history"] for name, value in log.items()}
        assert 0 < logs["kept_rejected" if method == "sepo" else "kept"] < 1
        assert 0 < logs["grad_norm"] < math.inf
    record = json.loads((tmp_path / "slm-rft" / "run.json").read_text(encoding="utf-8"))
    assert record["ref_model"] == files["lm"]
    page = (tmp_path / "sepo" / "report.html").read_text(encoding="utf-8")
    assert 'class="tag chosen"' in page
    assert ", masked out" in page
    capsys.readouterr()
    options["tis-dpo"] = [*pair, f"--dpo_model={files['lm']}"]
    for method, missing in {"sepo": "dpo_model", "tis-dpo": "reverse_dpo_model", "slm-rft": "ref_model"}.items():
        given = [option for option in options[method] if not option.startswith(f"--{missing}")]
        assert cli.main(["train", method, *common, *given, "--output_dir", str(tmp_path / "none")]) == 2
        assert f"{missing}: expected a directory, got none (--{missing} DIR)" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["slm-rft", "random-ppo"])
def test_selection_on_sampled_responses_resumes_to_the_same_weights(
    tmp_path: Path, tokenizer: Any, method: str
) -> None:
    def build(directory: Path, **options: Any) -> Any:
        if method == "random-ppo":
            return ppo(RandomPPOConfig, RandomPPOTrainer, directory, tokenizer, rollout_epochs=3, **options)
        options |= {"ref_model": lm(tokenizer, 2), "per_device_train_batch_size": 1}
        return rft(SLMRFTConfig, SLMRFTTrainer, directory, tokenizer, **options)

    assert_resumes_to_the_same_bits(build, tmp_path)
