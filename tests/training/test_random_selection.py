"""Random choice of tokens, the control of the methods that select tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkernel.training import RandomRFTConfig, RandomRFTTrainer
from segkernel.training.data.columns import SIDES
from segkernel.training.selection.random_tokens import random_mask, random_tokens
from segkernel.training.trainer.response_logits import response_logits
from tests.training.selection_helpers import ROWS, assert_loss_and_gradient, lm, logprobs_of, make, rft, whole_rewards
from tests.training.trainer_helpers import tiny_tokenizer


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


def test_random_dpo_logs_the_shares(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make("random-dpo", tmp_path, tokenizer, share=1.0, rejected_share=0.4, piece_length=4.0)
    kept = np.mean([token for row in trainer.train_dataset for token in row["rejected_mask"]])
    assert f"selection: 100 % of the chosen and {100 * kept:.0f} % of the rejected" in caplog.text


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
            logits = response_logits(trainer.model, batch)
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
    with pytest.raises(ValueError, match=r"share: no token of any accepted response is selected, so .* got 1e-09"):
        rft(RandomRFTConfig, RandomRFTTrainer, tmp_path, tokenizer, share=1e-9)
