"""AlignDistil against the paper's equations in plain floats, and the reverse DPO model that it takes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from segkernel import _cli as cli
from segkernel.losses.distillation import adaptive_teacher, aligndistil_loss, distillation_loss
from segkernel.training import AlignDistilConfig, AlignDistilTrainer, DPOConfig, DPOTrainer
from segkernel.training.data.columns import SIDES
from segkernel.training.models import load_frozen_lm
from tests.ops.plain_floats import logits_alone, logprobs_alone, softmax
from tests.training.trainer_helpers import (
    QUICK_PAIRS,
    assert_resumes_to_the_same_bits,
    pairs,
    tiny_config,
    tiny_lm,
    tiny_reward_model,
    tiny_tokenizer,
    write_files,
)

# Short responses, one of a single token; the two sides of a pair differ in length.
ROWS = [
    {"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9, 10, 1], "rejected_ids": [12, 1]},
    {"prompt_ids": [5], "chosen_ids": [7], "rejected_ids": [8, 9, 11]},
    {"prompt_ids": [9, 8, 7, 6], "chosen_ids": [30, 1], "rejected_ids": [31, 1]},
]


# --- the equations, in plain floats ----------------------------------------------------------------------------------


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def token_loss(
    student: list[float], dpo: list[float], reverse: list[float], beta: float, strength: float, floor: float
) -> tuple[float, float]:
    """`(loss, alpha)` of one token."""
    distance = 0.5 * sum(abs(a - b) for a, b in zip(softmax(dpo), softmax(reverse), strict=True))
    alpha = strength * distance + floor
    teacher = [d if d == r else d + alpha * (d - r) for d, r in zip(dpo, reverse, strict=True)]
    return beta / alpha * kl(softmax(student), softmax(teacher)), alpha


LOGITS = {
    "student": [[0.3, -1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.5, -math.inf, 0.1, 0.0]],
    "dpo": [[1.0, -0.5, 0.2, 0.0], [2.0, 0.0, -1.0, 0.5], [0.2, -math.inf, 0.9, 0.0]],
    "reverse": [[0.2, 0.1, 0.4, -0.3], [2.0, 0.0, -1.0, 0.5], [0.1, -math.inf, -0.9, 0.4]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("beta", "strength", "floor"), [(0.1, 20.0, 1e-3), (0.3, 2.0, 0.5), (1.0, 0.0, 1.0)])
def test_aligndistil_loss_matches_plain_floats(dtype: torch.dtype, beta: float, strength: float, floor: float) -> None:
    student, dpo, reverse = (torch.tensor(LOGITS[name], dtype=dtype) for name in LOGITS)
    losses, weights = aligndistil_loss(student, dpo, reverse, beta=beta, strength=strength, floor=floor)
    expected = [token_loss(*rows, beta, strength, floor) for rows in zip(*LOGITS.values(), strict=True)]
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    assert losses.tolist() == pytest.approx([loss for loss, _ in expected], rel=tolerance)
    assert weights.tolist() == pytest.approx([alpha for _, alpha in expected], rel=tolerance)
    assert losses.dtype == weights.dtype == dtype


def test_adaptive_teacher_of_equal_models_is_the_dpo_model() -> None:
    dpo = torch.tensor(LOGITS["dpo"])
    teacher, weights = adaptive_teacher(dpo, dpo, strength=20.0, floor=1e-3)
    assert torch.equal(teacher, dpo)
    assert weights.tolist() == pytest.approx([1e-3] * 3)
    losses, _ = aligndistil_loss(dpo, dpo, dpo)
    assert losses.tolist() == [0.0, 0.0, 0.0]
    student = torch.tensor(LOGITS["student"])
    losses, _ = aligndistil_loss(student, dpo, dpo, beta=0.1, floor=1e-3)
    expected = [100 * kl(softmax(s), softmax(d)) for s, d in zip(LOGITS["student"], LOGITS["dpo"], strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_adaptive_teacher_extrapolates_beyond_distant_models() -> None:
    dpo, reverse = torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 30.0]])
    teacher, weights = adaptive_teacher(dpo, reverse, strength=20.0, floor=1e-3)
    assert weights.tolist() == pytest.approx([20.001])  # a distance of 1
    assert teacher[0].tolist() == pytest.approx([30 + 20.001 * 30, -20.001 * 30])
    # The teacher gives the second token no probability that float32 could hold: still finite.
    losses, _ = aligndistil_loss(torch.zeros(1, 2), dpo, reverse)
    assert losses.isfinite().all()


def test_aligndistil_loss_equals_rlhf_with_the_contrasted_reward() -> None:
    """Up to a constant that no policy changes: `beta / alpha * KL(pi || dpo) - beta * E_pi[log dpo / reverse]`."""
    dpo, reverse = LOGITS["dpo"][0], LOGITS["reverse"][0]
    gaps = []
    for student in ([0.0, 0.0, 0.0, 0.0], [3.0, -2.0, 0.5, 1.0], [-1.0, 4.0, 0.0, 0.0]):
        policy, p, q = softmax(student), softmax(dpo), softmax(reverse)
        losses, weights = aligndistil_loss(*(torch.tensor([x], dtype=torch.float64) for x in (student, dpo, reverse)))
        reward = sum(w * math.log(a / b) for w, a, b in zip(policy, p, q, strict=True))
        gaps.append(losses.item() - (0.1 / weights.item() * kl(policy, p) - 0.1 * reward))
    assert gaps == pytest.approx([gaps[0]] * 3, abs=1e-10)


def test_aligndistil_loss_has_a_gradient_only_for_the_student() -> None:
    student, dpo, reverse = (torch.tensor(LOGITS[name], requires_grad=True) for name in LOGITS)
    aligndistil_loss(student, dpo, reverse)[0].sum().backward()
    assert dpo.grad is None
    assert reverse.grad is None
    assert student.grad.isfinite().all()
    assert student.grad[2, 1] == 0  # excluded by -inf
    assert student.grad[0].abs().min() > 0
    torch.testing.assert_close(student.grad.sum(-1), torch.zeros(3), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta: expected a finite number > 0, got 0.0"),
        ({"strength": -1.0}, "strength: expected >= 0, got -1.0"),
        ({"strength": math.nan}, "strength: expected >= 0, got nan"),
        ({"floor": 0.0}, "floor: expected a finite number > 0, got 0.0"),
    ],
)
def test_aligndistil_refuses_parameters_out_of_range(options: dict[str, float], message: str) -> None:
    zero = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        aligndistil_loss(zero, zero, zero, **options)
    with pytest.raises(ValueError, match=message.split(":")[0]):
        AlignDistilConfig(use_cpu=True, **options)


@pytest.mark.parametrize("student", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("teacher", [torch.float32, torch.float16, torch.float64])
def test_distillation_loss_of_two_dtypes_is_in_the_wider_one(student: torch.dtype, teacher: torch.dtype) -> None:
    """`log((1 + e) / 2) - 1/2` in each case; the logits 0 and 1 are exact in every dtype."""
    zeros, logits = torch.zeros(1, 2, dtype=student), torch.tensor([[0.0, 1.0]], dtype=teacher)
    wide = torch.float64 in (student, teacher)
    loss = distillation_loss(zeros, logits)
    assert loss.dtype is (torch.float64 if wide else torch.float32)
    assert loss.item() == pytest.approx(math.log((1 + math.e) / 2) - 0.5, rel=1e-12 if wide else 1e-6)
    found, weights = adaptive_teacher(zeros, logits, strength=1.0, floor=0.5)
    assert found.dtype is weights.dtype is loss.dtype


def test_distillation_losses_refuse_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"reverse_dpo_logits: expected \[2, 3\] like dpo_logits, got \[1, 3\]"):
        adaptive_teacher(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"teacher_logits: expected \[2, 3\] like .*, got \[2, 1\]"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 1))


# --- the trainer -----------------------------------------------------------------------------------------------------


def make_trainer(directory: Path, tokenizer: Any, rows: Any = None, **options: Any) -> AlignDistilTrainer:
    rows = pairs() if rows is None else rows
    return AlignDistilTrainer(
        tiny_lm(tokenizer, seed=1),
        AlignDistilConfig(str(directory), **{**QUICK_PAIRS, **options}),
        rows,
        rows,
        tokenizer,
        dpo_model=tiny_lm(tokenizer, seed=2),
        reverse_dpo_model=tiny_lm(tokenizer, seed=3),
    )


@pytest.mark.parametrize("padding", ["right", "left"])
def test_aligndistil_batch_matches_separate_tokens(tmp_path: Path, padding: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = padding
    settings = {"beta": 0.2, "strength": 5.0, "floor": 0.01}
    trainer = make_trainer(tmp_path, tokenizer, ROWS, **settings)
    models = [trainer.model, *trainer.teachers]
    trainer.model.train()  # no dropout: trains on the chosen side only
    losses, metrics = trainer.pair_losses(trainer.model, trainer.data_collator(trainer.train_dataset))
    for index, row in enumerate(ROWS):
        logits = zip(*(logits_alone(model, row["prompt_ids"], row["chosen_ids"]) for model in models), strict=True)
        tokens = [(token, *at_token) for token, at_token in zip(row["chosen_ids"], logits, strict=True)]
        expected = [token_loss(student, dpo, reverse, **settings) for _, student, dpo, reverse in tokens]
        count = len(expected)
        assert losses[index].item() == pytest.approx(sum(loss for loss, _ in expected) / count, rel=1e-3)
        assert metrics["extrapolation"][index].item() == pytest.approx(sum(a for _, a in expected) / count, rel=1e-3)
        distilled = [kl(softmax(student), softmax(dpo)) for _, student, dpo, _ in tokens]
        assert metrics["kl/dpo"][index].item() == pytest.approx(sum(distilled) / count, rel=1e-3)
        distilled = [loss * alpha / 0.2 for loss, alpha in expected]
        assert metrics["kl/teacher"][index].item() == pytest.approx(sum(distilled) / count, rel=1e-3)
        entropy = [-sum(p * math.log(p) for p in softmax(student)) for _, student, _, _ in tokens]
        assert metrics["entropy"][index].item() == pytest.approx(sum(entropy) / count, rel=1e-4)
        rewards = [0.2 * math.log(softmax(dpo)[y] / softmax(reverse)[y]) for y, _, dpo, reverse in tokens]
        assert metrics["rewards/teacher"][index].item() == pytest.approx(sum(rewards) / count, rel=1e-3, abs=1e-5)
        assert metrics["response_tokens"][index] == count


def test_aligndistil_scores_both_sides_of_held_out_pairs(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, ROWS)
    start = tiny_lm(tokenizer, seed=1)  # the reference, too
    with torch.no_grad():
        for value in trainer.model.parameters():
            value.mul_(1.1)
    trainer.model.eval()
    with torch.no_grad():
        losses, metrics = trainer.pair_losses(trainer.model, trainer.data_collator(trainer.eval_dataset))
    trainer.model.train()
    trained, _ = trainer.pair_losses(trainer.model, trainer.data_collator(trainer.train_dataset))
    torch.testing.assert_close(losses, trained.detach(), rtol=1e-4, atol=1e-5)
    for index, row in enumerate(ROWS):
        gains = []
        for side in SIDES:
            prompt, response = row["prompt_ids"], row[f"{side}_ids"]
            policy, reference = (logprobs_alone(model, prompt, response) for model in (trainer.model, start))
            gains.append(0.1 * (sum(policy) - sum(reference)))
        assert metrics["rewards/margins"][index].item() == pytest.approx(gains[0] - gains[1], abs=1e-4)
        assert metrics["rewards/accuracies"][index] == float(gains[0] > gains[1])


def test_aligndistil_ignores_logits_outside_the_chosen_response(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, ROWS)
    batch = trainer.data_collator(trainer.train_dataset)
    used = batch["response_mask"][:, 0].roll(-1, dims=1)
    captured: list[Tensor] = []

    class Poisoned(nn.Module):
        """NaN wherever a logit predicts no token of a chosen response."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            assert len(input_ids) == len(ROWS)  # the chosen side
            output = self.model(input_ids=input_ids, attention_mask=attention_mask)
            output.logits = torch.where(used[..., None], output.logits, math.nan)
            if output.logits.requires_grad:
                output.logits.retain_grad()
            captured.append(output.logits)
            return output

    trainer.teachers = [Poisoned(teacher) for teacher in trainer.teachers]
    losses, metrics = trainer.pair_losses(Poisoned(trainer.model), batch)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert all(values.isfinite().all() for values in metrics.values())
    assert not any(logits.requires_grad for logits in captured[1:])
    assert (captured[0].grad[~used] == 0).all()
    assert (captured[0].grad[used].abs().sum(-1) > 0).all()


def test_aligndistil_moves_the_policy_to_the_teacher(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, num_train_epochs=15, learning_rate=3e-3, strength=1.0)
    frozen = [value.clone() for teacher in trainer.teachers for value in teacher.parameters()]
    before = trainer.evaluate()
    assert before["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_kl/teacher"] < 0.5 * before["eval_kl/teacher"]
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_extrapolation"] == pytest.approx(before["eval_extrapolation"], rel=1e-4)
    logged = next(log for log in trainer.state.log_history if "loss" in log)
    expected = {"kl/teacher", "kl/dpo", "entropy", "extrapolation", "rewards/teacher", "logps", "response_tokens"}
    assert expected <= logged.keys()
    still = [value for teacher in trainer.teachers for value in teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(frozen, still, strict=True))


@pytest.mark.parametrize("on_policy", [False, True])
def test_aligndistil_resumes_to_the_same_weights(tmp_path: Path, tokenizer: Any, on_policy: bool) -> None:
    settings = {"on_policy": on_policy, "max_new_tokens": 5, "max_prompt_length": 32}
    assert_resumes_to_the_same_bits(
        lambda directory, **options: make_trainer(directory, tokenizer, **settings, **options), tmp_path
    )


def test_aligndistil_on_policy_trains_on_sampled_responses(tmp_path: Path, tokenizer: Any) -> None:
    settings = {"on_policy": True, "max_new_tokens": 4, "max_prompt_length": 3, "seed": 5}
    trainer = make_trainer(tmp_path, tokenizer, ROWS, **settings)
    assert trainer.train_dataset[2]["prompt_ids"] == [8, 7, 6]  # trimmed from the left
    rows = list(trainer.train_dataset)
    sampled = trainer.sample(trainer.model, trainer.data_collator(rows))
    alone = trainer.sample(trainer.model, trainer.data_collator(rows[2:]))
    length = int(alone["response_mask"].sum())
    assert 1 <= length <= 4
    at = alone["response_mask"][0]
    response = alone["input_ids"][0][at].tolist()
    assert sampled["input_ids"][2][sampled["response_mask"][2]].tolist() == response  # whatever the batch
    assert alone["input_ids"][0, :3].tolist() == [8, 7, 6]

    trainer.model.train()
    losses, metrics = trainer.pair_losses(trainer.model, trainer.data_collator(rows[2:]))
    logits = (logits_alone(model, [8, 7, 6], response) for model in (trainer.model, *trainer.teachers))
    expected = [token_loss(*at_token, 0.1, 20.0, 1e-3)[0] for at_token in zip(*logits, strict=True)]
    assert losses.item() == pytest.approx(sum(expected) / length, rel=1e-3)
    assert metrics["response_tokens"].tolist() == [length]

    trainer.state.global_step = 1
    later = trainer.sample(trainer.model, trainer.data_collator(rows))
    assert not torch.equal(later["input_ids"], sampled["input_ids"])


def test_aligndistil_checks_teachers_before_any_work(tmp_path: Path, tokenizer: Any) -> None:
    model, other = tiny_lm(tokenizer), tiny_lm(tokenizer)
    config = AlignDistilConfig(str(tmp_path), **QUICK_PAIRS)
    small = LlamaForCausalLM(tiny_config(tokenizer))
    small.resize_token_embeddings(64)
    with pytest.raises(ValueError, match="dpo_model: expected a frozen model of its own, got the model"):
        AlignDistilTrainer(model, config, ROWS, dpo_model=model, reverse_dpo_model=other)
    with pytest.raises(ValueError, match=rf"reverse_dpo_model: .* over the policy's {len(tokenizer)} tokens, got 64"):
        AlignDistilTrainer(model, config, ROWS, dpo_model=other, reverse_dpo_model=small)
    config = AlignDistilConfig(str(tmp_path), on_policy=True, max_prompt_length=30, max_new_tokens=20, **QUICK_PAIRS)
    with pytest.raises(ValueError, match="processing_class: expected a tokenizer"):
        AlignDistilTrainer(model, config, ROWS, dpo_model=other, reverse_dpo_model=other)
    config = AlignDistilConfig(str(tmp_path), on_policy=True, max_prompt_length=200, **QUICK_PAIRS)
    with pytest.raises(
        ValueError,
        match=r"max_prompt_length: expected at most 127 tokens, .* got 200",
    ):
        AlignDistilTrainer(model, config, ROWS, None, tokenizer, dpo_model=other, reverse_dpo_model=other)


@pytest.mark.parametrize("name", ["dpo_model", "reverse_dpo_model"])
def test_aligndistil_refuses_a_teacher_with_nan_logits(tmp_path: Path, tokenizer: Any, name: str) -> None:
    teachers = {"dpo_model": tiny_lm(tokenizer, seed=2), "reverse_dpo_model": tiny_lm(tokenizer, seed=3)}
    with torch.no_grad():
        teachers[name].model.norm.weight[3] = math.nan
    config = AlignDistilConfig(str(tmp_path), **QUICK_PAIRS)
    with pytest.raises(ValueError, match=rf"^{name}: expected logits that are numbers, got NaN"):
        AlignDistilTrainer(tiny_lm(tokenizer), config, ROWS, None, tokenizer, **teachers)


def test_load_frozen_lm_refuses_other_models_and_tokenizers(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"dpo_model: there is no directory '\./none'"):
        load_frozen_lm("dpo_model", "./none", tokenizer)
    for name, model in (("lm", tiny_lm(tokenizer)), ("rm", tiny_reward_model(tokenizer))):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="dpo_model: expected a causal language model, got LlamaForTokenClass"):
        load_frozen_lm("dpo_model", str(tmp_path / "rm"), tokenizer)
    other = tiny_tokenizer()
    other.add_tokens(["red red"])
    with pytest.raises(ValueError, match=r"dpo_model: expected the policy's tokenizer, got another one in"):
        load_frozen_lm("dpo_model", str(tmp_path / "lm"), other)
    assert load_frozen_lm("dpo_model", str(tmp_path / "lm"), tokenizer).config.vocab_size == len(tokenizer)


# --- the reverse DPO model, and the command line ---------------------------------------------------------------------


def test_reverse_dpo_equals_dpo_on_exchanged_pairs(tmp_path: Path, tokenizer: Any) -> None:
    policy, reference = tiny_lm(tokenizer, seed=1), tiny_lm(tokenizer, seed=2)
    exchanged = [
        {"prompt_ids": r["prompt_ids"], "chosen_ids": r["rejected_ids"], "rejected_ids": r["chosen_ids"]} for r in ROWS
    ]
    found = {}
    for name, rows, reverse in (("reverse", ROWS, True), ("exchanged", exchanged, False)):
        config = DPOConfig(str(tmp_path), reverse=reverse, **QUICK_PAIRS)
        trainer = DPOTrainer(policy, config, rows, None, tokenizer, ref_model=reference)
        found[name] = trainer.pair_losses(policy.eval(), trainer.data_collator(trainer.train_dataset))
    losses, metrics = found["reverse"]
    torch.testing.assert_close(losses, found["exchanged"][0])
    # The sides keep their names.
    torch.testing.assert_close(metrics["rewards/chosen"], found["exchanged"][1]["rewards/rejected"])
    torch.testing.assert_close(metrics["rewards/margins"], -found["exchanged"][1]["rewards/margins"])
    for index, margin in enumerate(metrics["rewards/margins"].tolist()):
        assert losses[index].item() == pytest.approx(math.log1p(math.exp(margin)), rel=1e-5)


def test_aligndistil_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    quick = ("--use_cpu", "--disable_tqdm=True", "--max_length=64", "--num_train_epochs=1", "--learning_rate=1e-3")
    data = ("--preferences", files["preferences"], "--model", files["lm"], *quick)

    def run(method: str, name: str, *options: str) -> int:
        return cli.main(["train", method, *data, "--output_dir", str(tmp_path / name), *options])

    assert run("aligndistil", "none", "--reverse_dpo_model", files["lm"]) == 2
    assert "dpo_model: expected a directory, got none (--dpo_model DIR)" in capsys.readouterr().err
    assert run("dpo", "dpo") == 0
    assert run("dpo", "reverse", "--reverse") == 0
    models = ("--dpo_model", str(tmp_path / "dpo"), "--reverse_dpo_model", str(tmp_path / "reverse"))
    assert run("aligndistil", "off", *models) == 0
    assert "held out\n  loss  " in capsys.readouterr().out
    sampled = ("--on_policy", "--max_new_tokens=6", "--max_prompt_length=32")
    assert run("aligndistil", "on", *models, *sampled) == 0
    wrong = ("--dpo_model", files["rm"], "--reverse_dpo_model", files["lm"])
    assert run("aligndistil", "wrong", *wrong) == 2
    assert "dpo_model: expected a causal language model" in capsys.readouterr().err
