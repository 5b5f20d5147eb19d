"""Methods that select tokens of preference pairs, against literal transcriptions of their rules.

The transcriptions use plain torch on one sequence at a time; losses and gradients are compared with the trainers'.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkernel import _cli as cli
from segkernel.training import SePOConfig, SePOTrainer, TISDPOConfig, TISDPOTrainer
from segkernel.training.data.columns import SIDES
from tests.training.selection_helpers import (
    EOS,
    ROWS,
    SELECTED,
    assert_loss_and_gradient,
    lm,
    logprobs_of,
    make,
    whole_rewards,
)
from tests.training.trainer_helpers import QUICK_PAIRS, tiny_tokenizer, write_files


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
