"""The segment reward model against its paper's equations in plain floats, and against `reward`, its limit."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput

import segkernel
from segkernel import _cli as cli
from segkernel.training import RewardConfig, RewardTrainer, SegmentRewardConfig, SegmentRewardTrainer
from segkernel.training.data.columns import SIDES
from segkernel.training.segmentation.entropy import Segmenter, load_segmenter
from tests.ops.plain_floats import entropies_alone, scores_alone
from tests.ops.segment_helpers import LLAMA3, PHI3, lively_reward_model, segment_ends_by_hand, threshold_amid, unsure_lm
from tests.training.trainer_helpers import (
    QUICK_PAIRS,
    assert_resumes_to_the_same_bits,
    assert_same_bits,
    pairs,
    tiny_lm,
    tiny_reward_model,
    tiny_tokenizer,
    weights,
    write_files,
)

# One-token responses among them, on either side and on both.
ROWS = [
    {"prompt_ids": [5, 6, 9], "chosen_ids": [7, 8, 9, 10, 11, 7, 30], "rejected_ids": [12, 13, 14]},
    {"prompt_ids": [5], "chosen_ids": [7], "rejected_ids": [8, 9]},
    {"prompt_ids": [20, 21], "chosen_ids": [33], "rejected_ids": [34]},
    {"prompt_ids": [40, 41, 42, 43, 44], "chosen_ids": [50, 51, 52, 53, 54, 55], "rejected_ids": [50, 61, 52, 53]},
]


def make_trainer(output_dir: Path, tokenizer: Any, rows: Any = None, **options: Any) -> SegmentRewardTrainer:
    return SegmentRewardTrainer(
        lively_reward_model(tokenizer),
        SegmentRewardConfig(str(output_dir), **{**QUICK_PAIRS, **options}),
        pairs() if rows is None else rows,
        pairs() if rows is None else rows,
        tokenizer,
        ref_model=unsure_lm(tokenizer),
    )


# --- the paper's equations, in plain floats --------------------------------------------------------------------------


def by_hand(function: Any, model: nn.Module, row: dict[str, Any], side: str) -> list[float]:
    """`entropies_alone` or `scores_alone` of one side of a pair."""
    return function(model, row["prompt_ids"], row[f"{side}_ids"])


def segment_rewards_by_hand(
    reference: nn.Module, model: nn.Module, row: dict[str, Any], side: str, threshold: float, min_length: int = 1
) -> list[float]:
    ends = segment_ends_by_hand(by_hand(entropies_alone, reference, row, side), threshold, min_length)
    scores = by_hand(scores_alone, model, row, side)[1:]
    return [scores[end] for end in ends]


def threshold_in_the_middle(tokenizer: Any) -> float:
    model = unsure_lm(tokenizer)
    return threshold_amid(
        [value for row in ROWS for side in SIDES for value in by_hand(entropies_alone, model, row, side)]
    )


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize(("threshold", "min_length"), [("middle", 1), ("middle", 2), (0.0, 1), (0.0, 3), (math.inf, 1)])
def test_segment_reward_scores_and_loss_match_plain_floats(
    tmp_path: Path, tokenizer: Any, threshold: Any, min_length: int, padding_side: str
) -> None:
    if threshold == "middle":
        threshold = threshold_in_the_middle(tokenizer)
    padded = tiny_tokenizer()
    padded.padding_side = padding_side
    options = {"entropy_threshold": threshold, "min_length": min_length}
    trainer = make_trainer(tmp_path, padded, ROWS, **options)
    reference, model = unsure_lm(tokenizer), lively_reward_model(tokenizer)
    with torch.no_grad():
        losses, metrics = trainer.pair_losses(trainer.model, trainer.data_collator(trainer.train_dataset))

    counts = []
    for index, row in enumerate(ROWS):
        scores = []
        for side in SIDES:
            rewards = segment_rewards_by_hand(reference, model, row, side, threshold, min_length)
            scores.append(sum(rewards) / len(rewards))
            counts.append(len(rewards))
            assert metrics[f"segments/{side}"][index] == len(rewards)
            assert metrics[f"scores/{side}"][index].item() == pytest.approx(scores[-1], rel=1e-4, abs=1e-5)
        assert losses[index].item() == pytest.approx(math.log1p(math.exp(scores[1] - scores[0])), rel=1e-4, abs=1e-5)
        assert metrics["accuracy"][index] == (scores[0] > scores[1])
    lengths = [len(row[f"{side}_ids"]) for row in ROWS for side in SIDES]
    if threshold == math.inf:
        assert counts == [1] * len(counts)
    elif threshold == 0:
        assert counts == [math.ceil(length / min_length) for length in lengths]
    else:
        # Somewhere between the two: what is tested is not one of them.
        assert all(1 <= count <= length for count, length in zip(counts, lengths, strict=True))
        assert len(counts) < sum(counts) < sum(lengths)


def test_segment_reward_with_one_segment_has_the_same_bits_as_reward(tmp_path: Path, tokenizer: Any) -> None:
    config = RewardConfig(str(tmp_path / "reward"), learning_rate=1e-3, **QUICK_PAIRS)
    plain = RewardTrainer(lively_reward_model(tokenizer), config, pairs(), pairs(), tokenizer)
    segmented = make_trainer(tmp_path / "segments", tokenizer, entropy_threshold=math.inf, learning_rate=1e-3)
    with torch.no_grad():
        expected, _ = plain.pair_losses(plain.model, plain.data_collator(plain.train_dataset))
        losses, _ = segmented.pair_losses(segmented.model, segmented.data_collator(segmented.train_dataset))
    assert torch.equal(losses, expected)
    start = weights(plain)
    plain.train()
    segmented.train()
    assert not torch.equal(start["score.weight"], weights(plain)["score.weight"])
    assert_same_bits(weights(plain), weights(segmented))


def test_segment_reward_gradient_reaches_only_the_ends_of_segments(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, ROWS, entropy_threshold=threshold_in_the_middle(tokenizer))
    batch = trainer.data_collator(trainer.train_dataset)
    captured: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
            output = trainer.model(input_ids, attention_mask=attention_mask, position_ids=position_ids)
            captured.append(output.logits)
            output.logits.retain_grad()
            return output

    losses, _ = trainer.pair_losses(Spy(), batch)
    losses.sum().backward()
    ids = batch["segment_ids"].flatten(0, 1)
    # The last of a segment is a token that the next one, or nothing, follows.
    ends = (ids >= 0) & (ids != torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -1)], dim=1))
    assert torch.equal(captured[0].grad[..., 0] != 0, ends)


# --- the normalizer saved with the model -----------------------------------------------------------------------------


class PublishedRewards(nn.Module):
    """Scores that spread over the positions of a response as published; its prompts have one token."""

    def __init__(self, mean: tuple[float, float], std: tuple[float, float]) -> None:
        super().__init__()
        self.mean, self.std, self.generator = mean, std, torch.Generator().manual_seed(5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> TokenClassifierOutput:
        tokens = attention_mask.sum(1, keepdim=True) - 1
        log_p = (torch.arange(input_ids.shape[1]) / tokens).clamp(min=1e-6).log()
        noise = torch.randn(input_ids.shape, generator=self.generator)
        scores = self.mean[0] * log_p + self.mean[1] + (self.std[0] * log_p + self.std[1]) * noise
        return TokenClassifierOutput(logits=scores[..., None])


@pytest.mark.parametrize("fit", [PHI3, LLAMA3])
def test_normalizer_finds_the_published_lines(tmp_path: Path, tokenizer: Any, fit: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(6)
    rows = []
    for _ in range(1200):
        chosen, rejected = torch.randint(1, 25, (2,), generator=generator).tolist()
        rows.append({"prompt_ids": [5], "chosen_ids": [7] * chosen, "rejected_ids": [8] * rejected})
    # Every token a segment, so that position t of T is segment t of T.
    trainer = make_trainer(tmp_path, tokenizer, rows, entropy_threshold=0.0, per_device_eval_batch_size=64)
    trainer.model = PublishedRewards(**fit)
    segmenter = trainer.fit_segmenter()
    assert segmenter.mean == pytest.approx(fit["mean"], abs=0.15)
    assert segmenter.std == pytest.approx(fit["std"], abs=0.15)
    # As far as the mean and the deviation of rewards at four positions, to be sure of the signs.
    for p in (0.25, 0.5, 0.75, 1.0):
        mean, std = (line[0] * math.log(p) + line[1] for line in (fit["mean"], fit["std"]))
        normalized = segmenter.normalize(torch.full((1, 4), mean + 2 * std), torch.tensor([4]))
        assert normalized[0, round(4 * p) - 1].item() == pytest.approx(2, abs=0.15)


def test_saved_normalizer_is_fitted_to_the_saved_model(tmp_path: Path, tokenizer: Any) -> None:
    threshold = threshold_in_the_middle(tokenizer)
    trainer = make_trainer(
        tmp_path, tokenizer, entropy_threshold=threshold, min_length=2, save_strategy="epoch", learning_rate=1e-3
    )
    trainer.train()
    trainer.save_model()
    last = tmp_path / f"checkpoint-{trainer.state.global_step}"
    assert trainer.model.training
    assert load_segmenter(last) == load_segmenter(tmp_path) == load_segmenter(str(tmp_path))
    assert load_segmenter(tmp_path / f"checkpoint-{trainer.state.global_step // 2}") != load_segmenter(tmp_path)

    reference, model = unsure_lm(tokenizer), type(trainer.model).from_pretrained(tmp_path).eval()
    rewards = [
        segment_rewards_by_hand(reference, model, row, side, threshold, min_length=2)
        for row in trainer.train_dataset
        for side in SIDES
    ]
    counts = torch.tensor([len(row) for row in rewards])
    assert (counts > 1).sum() >= 4
    padded = torch.tensor([row + [math.nan] * (max(counts) - len(row)) for row in rewards])
    mean, std = segkernel.fit_location_normalizer(padded, counts)
    saved = load_segmenter(tmp_path)
    assert (saved.entropy_threshold, saved.min_length) == (threshold, 2)
    assert saved.mean == pytest.approx(mean, rel=1e-3, abs=1e-4)
    assert saved.std == pytest.approx(std, rel=1e-3, abs=1e-4)
    overall = statistics.stdev(reward for row in rewards for reward in row)
    assert saved.min_std == pytest.approx(0.1 * overall, rel=1e-3)


def test_normalizer_of_one_segment_per_response_is_constant(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, entropy_threshold=math.inf)
    trainer.save_model()
    rewards = [by_hand(scores_alone, trainer.model, row, side)[-1] for row in trainer.train_dataset for side in SIDES]
    saved = load_segmenter(tmp_path)
    assert saved.entropy_threshold == math.inf
    assert saved.mean == pytest.approx((0.0, statistics.mean(rewards)), rel=1e-4)
    assert saved.std == pytest.approx((0.0, statistics.stdev(rewards)), rel=1e-4)


def test_normalizer_takes_evenly_spaced_pairs(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, entropy_threshold=math.inf, normalizer_pairs=4)
    rewards = [
        by_hand(scores_alone, trainer.model, row, side)[-1]
        for row in trainer.train_dataset.select(range(0, 12, 3))
        for side in SIDES
    ]
    assert len(rewards) == 8
    assert trainer.fit_segmenter().mean == pytest.approx((0.0, statistics.mean(rewards)), rel=1e-4)


# --- training, resuming, errors --------------------------------------------------------------------------------------


def test_segment_reward_resumes_to_the_same_weights_and_normalizer(tmp_path: Path, tokenizer: Any) -> None:
    threshold = threshold_in_the_middle(tokenizer)
    assert_resumes_to_the_same_bits(
        lambda directory, **options: make_trainer(directory, tokenizer, entropy_threshold=threshold, **options),
        tmp_path,
    )
    last = load_segmenter(tmp_path / "whole" / "checkpoint-6")
    assert load_segmenter(tmp_path / "cut" / "checkpoint-6") == last
    assert load_segmenter(tmp_path / "cut" / "checkpoint-2") != last


def test_segment_reward_saving_often_trains_the_same_model(tmp_path: Path, tokenizer: Any) -> None:
    """Fitting the normalizer draws no random numbers of the training."""
    ends = []
    for often in (True, False):
        saving = {"save_strategy": "steps", "save_steps": 1} if often else {}
        trainer = make_trainer(tmp_path / str(often), tokenizer, **saving)  # seeds
        for layer in trainer.model.model.layers:
            layer.self_attn.attention_dropout = 0.3
        trainer.train()
        ends.append(weights(trainer))
    assert_same_bits(*ends)


def test_segment_reward_learns_the_preference(tmp_path: Path, tokenizer: Any) -> None:
    options = {"num_train_epochs": 15, "learning_rate": 5e-3, "entropy_threshold": threshold_in_the_middle(tokenizer)}
    trainer = make_trainer(tmp_path, tokenizer, **options)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_accuracy"] >= 11 / 12
    mean = statistics.mean(row["segments"][0] for row in trainer.eval_dataset)
    assert after["eval_segments/chosen"] == pytest.approx(mean)
    assert mean > 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_segment_reward_refuses_scores_that_are_not_finite(tmp_path: Path, tokenizer: Any, value: float) -> None:
    trainer = make_trainer(tmp_path, tokenizer)
    with torch.no_grad():
        trainer.model.score.weight.fill_(value)
    with pytest.raises(ValueError, match=r"reward model: expected a finite score at the end of every segment, got"):
        trainer.train()


def test_segment_reward_refuses_a_reference_with_nan_logits(tmp_path: Path, tokenizer: Any) -> None:
    reference = tiny_lm(tokenizer)
    with torch.no_grad():
        reference.lm_head.weight[3] = math.nan
    with pytest.raises(ValueError, match=r"ref_model: expected finite logits, got NaN or infinity"):
        SegmentRewardTrainer(
            tiny_reward_model(tokenizer),
            SegmentRewardConfig(str(tmp_path), **QUICK_PAIRS),
            pairs(),
            None,
            tokenizer,
            ref_model=reference,
        )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"entropy_threshold": -0.1}, r"entropy_threshold: expected >= 0, got -0\.1"),
        ({"entropy_threshold": math.nan}, r"entropy_threshold: expected a number, got nan"),
        ({"min_length": 0}, r"min_length: expected >= 1, got 0"),
        ({"normalizer_pairs": 0}, r"normalizer_pairs: expected >= 1, got 0"),
    ],
)
def test_segment_reward_config_refuses_options_out_of_range(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentRewardConfig(use_cpu=True, **option)


def test_segmenter_round_trips_through_its_file(tmp_path: Path) -> None:
    for threshold in (1.75, math.inf):
        segmenter = Segmenter(threshold, 3, **PHI3, min_std=0.25)
        segmenter.save(tmp_path)
        assert load_segmenter(tmp_path) == segmenter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [1.0]}, r"mean: expected a finite slope and intercept, got \(1\.0,\)"),
        ({"std": [1.0, math.nan]}, r"std: expected a finite slope and intercept, got \(1\.0, nan\)"),
        ({"min_std": 0}, r"min_std: expected a finite number > 0, got 0"),
        ({"entropy_threshold": "low"}, r"could not convert string to float: 'low'"),
        ({"min_length": None}, r"int\(\) argument must be"),
    ],
)
def test_load_segmenter_refuses_values_out_of_range(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    Segmenter(1.75, 1, **PHI3, min_std=0.25).save(tmp_path)
    file = tmp_path / "segments.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"segments\.json: cannot be read: {message}"):
        load_segmenter(tmp_path)


def test_load_segmenter_refuses_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"made with `segkernel train segment-reward`"):
        load_segmenter(tmp_path)
    (tmp_path / "segments.json").write_text("{}")
    with pytest.raises(ValueError, match=r"segments\.json: cannot be read: there is no 'entropy_threshold'"):
        load_segmenter(tmp_path)
    (tmp_path / "segments.json").write_text("{")
    with pytest.raises(ValueError, match=r"segments\.json: cannot be read: Expecting property name"):
        load_segmenter(tmp_path)


def test_segment_reward_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    common = ("train", "segment-reward", "--preferences", files["preferences"], "--use_cpu")
    common = (*common, "--output_dir", files["out"], "--disable_tqdm=True", "--max_length=64", "--num_train_epochs=1")
    assert cli.main([*common]) == 2
    assert "model: expected the language model whose entropy cuts the responses" in capsys.readouterr().err
    assert cli.main([*common, "--model", files["rm"]]) == 2
    assert "model: expected a causal language model, got LlamaForTokenClassification in" in capsys.readouterr().err
    options = ("--entropy_threshold=5.6", "--min_length=2", "--logging_steps=1")
    assert cli.main([*common, "--model", files["lm"], *options, "--resume_from_checkpoint=last"]) == 2
    assert "there is no checkpoint in" in capsys.readouterr().err
    assert cli.main([*common, "--model", files["lm"], *options]) == 0
    saved = load_segmenter(files["out"])
    assert (saved.entropy_threshold, saved.min_length) == (5.6, 2)
    history = json.loads((Path(files["out"]) / "trainer_state.json").read_text())["log_history"]
    logged = {name for log in history for name in log}
    assert {"loss", "accuracy", "scores/margin", "segments/chosen", "eval_accuracy_low"} <= logged
