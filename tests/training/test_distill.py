"""On-policy distillation against GKD's equations in plain floats: the three signals, runs, resuming, bad input."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel import _cli as cli
from segkernel.training import DistillConfig, DistillTrainer
from segkernel.training.trainer.response_logits import response_logits
from tests.ops.plain_floats import logits_alone, softmax
from tests.training.trainer_helpers import (
    QUICK,
    assert_resumes_to_the_same_bits,
    prompts,
    tiny_config,
    tiny_lm,
    write_files,
    write_jsonl,
)

PROMPTS = [{"prompt_ids": [5, 6]}, {"prompt_ids": [7]}, {"prompt_ids": [30, 8, 9, 10]}, {"prompt_ids": [9, 8]}]
SETTINGS: dict[str, Any] = {**QUICK, "max_new_tokens": 5, "max_prompt_length": 32, "seed": 3}
KEYS = [(3, 0, row) for row in range(4)]


def make_trainer(directory: Path, tokenizer: Any, rows: Any = None, **options: Any) -> DistillTrainer:
    rows = PROMPTS if rows is None else rows
    config = DistillConfig(str(directory), **{**SETTINGS, **options})
    return DistillTrainer(tiny_lm(tokenizer, seed=1), config, rows, rows, tokenizer, teacher=tiny_lm(tokenizer, seed=2))


def collected(trainer: DistillTrainer) -> dict[str, Tensor]:
    return trainer.collect([row["prompt_ids"] for row in PROMPTS], KEYS)


def responses(batch: dict[str, Tensor]) -> list[tuple[list[int], list[int]]]:
    """Prompt and response of every row of a rollout."""
    found = []
    for ids, attended, mask in zip(
        batch["input_ids"], batch["attention_mask"].bool(), batch["response_mask"], strict=True
    ):
        found.append((ids[attended & ~mask].tolist(), ids[mask].tolist()))
    return found


def tokens_of(trainer: DistillTrainer, batch: dict[str, Tensor]) -> list[tuple[int, list[float], list[float]]]:
    """Every response token of a rollout with the probabilities of the student and the teacher."""
    temperature, found = trainer.args.temperature, []
    for prompt, response in responses(batch):
        rows = [logits_alone(model, prompt, response) for model in (trainer.model, trainer.teacher)]
        p, q = ([softmax([x / temperature for x in logits]) for logits in of_model] for of_model in rows)
        found += list(zip(response, p, q, strict=True))
    return found


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def generalized_js(p: list[float], q: list[float], beta: float) -> float:
    if beta in (0, 1):
        return kl(p, q) if beta == 1 else kl(q, p)
    mixture = [beta * b + (1 - beta) * a for a, b in zip(p, q, strict=True)]
    return beta * kl(q, mixture) + (1 - beta) * kl(p, mixture)


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_distill_loss_is_the_mean_divergence_of_the_response_tokens(
    tmp_path: Path, tokenizer: Any, beta: float
) -> None:
    trainer = make_trainer(tmp_path, tokenizer, beta=beta, temperature=1.5)
    batch = collected(trainer)
    tokens = tokens_of(trainer, batch)
    assert not batch["attention_mask"].all()  # rows of different lengths
    loss = trainer.compute_loss(trainer.model, batch)
    expected = sum(generalized_js(p, q, beta) for _, p, q in tokens) / len(tokens)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("beta", "top_k"), [(1.0, 3), (0.0, 3), (1.0, 200)])
def test_distill_top_k_loss_takes_other_tokens_as_one_outcome(
    tmp_path: Path, tokenizer: Any, beta: float, top_k: int
) -> None:
    trainer = make_trainer(tmp_path, tokenizer, beta=beta, signal="top_k", top_k=top_k)
    batch = collected(trainer)
    losses = []
    tokens = tokens_of(trainer, batch)
    for _, p, q in tokens:
        likely = sorted(range(len(q)), key=lambda token, q=q: -q[token])[:top_k]
        rest = [token for token in range(len(q)) if token not in set(likely)]
        grouped = [[d[token] for token in likely] + ([sum(d[token] for token in rest)] if rest else []) for d in (p, q)]
        losses.append(generalized_js(*grouped, beta))
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_distill_sampled_loss_is_the_log_ratio_and_reinforces_by_it(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, signal="sampled")
    batch = collected(trainer)
    tokens = tokens_of(trainer, batch)
    ratios = [math.log(p[token] / q[token]) for token, p, q in tokens]
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    loss.backward()
    found = trainer.model.lm_head.weight.grad.clone()
    trainer.model.zero_grad()
    logprobs = trainer.token_logprobs(response_logits(trainer.model, batch), batch)
    weighted = (logprobs.detach() - batch["teacher_logprobs"]) * logprobs
    (weighted[batch["response_mask"]].sum() / len(tokens)).backward()
    torch.testing.assert_close(found, trainer.model.lm_head.weight.grad, rtol=1e-4, atol=1e-7)


def test_distill_sampled_gradient_is_that_of_the_kl_in_expectation(tmp_path: Path, tokenizer: Any) -> None:
    """Over all tokens of the vocabulary, weighted by their probabilities."""
    trainer, V = make_trainer(tmp_path, tokenizer, signal="sampled"), 6
    student, teacher = torch.randn(V, dtype=torch.float64), torch.randn(V, dtype=torch.float64)
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    leaf = student.clone().requires_grad_()
    batch = {
        "input_ids": torch.stack([torch.zeros(V, dtype=torch.int64), torch.arange(V)], 1),
        "response_mask": torch.tensor([[False, True]]).repeat(V, 1),
        "old_logprobs": torch.stack([torch.zeros(V), log_p], 1),
        "teacher_logprobs": torch.stack([torch.zeros(V), log_q], 1),
    }
    losses, _ = trainer.sampled_losses(leaf.expand(V, V), batch)
    (found,) = torch.autograd.grad((log_p.exp() * losses).sum(), leaf)
    exact = student.clone().requires_grad_()
    log_ratios = exact.log_softmax(-1) - log_q
    (expected,) = torch.autograd.grad((exact.softmax(-1) * log_ratios).sum(), exact)
    torch.testing.assert_close(found, expected)


def test_distill_samples_new_responses_for_every_rollout(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer)
    first = collected(trainer)
    assert torch.equal(collected(trainer)["input_ids"], first["input_ids"])
    later = trainer.collect([row["prompt_ids"] for row in PROMPTS], [(3, 1, row) for row in range(4)])
    assert responses(later) != responses(first)


def test_distill_moves_the_policy_to_the_teacher(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(tmp_path, tokenizer, prompts(), num_train_epochs=12, learning_rate=3e-3)
    frozen = [value.clone() for value in trainer.teacher.parameters()]
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert all(torch.equal(a, b) for a, b in zip(frozen, trainer.teacher.parameters(), strict=True))
    logged = next(log for log in trainer.state.log_history if "loss" in log)
    assert {"divergence", "entropy", "teacher_entropy", "logps", "teacher_logps", "rollout/length"} <= logged.keys()
    assert logged["divergence"] == pytest.approx(logged["loss"], rel=1e-3)


@pytest.mark.parametrize("signal", ["full", "top_k"])
def test_distill_resumes_to_the_same_weights(tmp_path: Path, tokenizer: Any, signal: str) -> None:
    settings = {"signal": signal, "top_k": 4, "per_device_train_batch_size": 2, "minibatches": 2}
    assert_resumes_to_the_same_bits(
        lambda directory, **options: make_trainer(directory, tokenizer, prompts(8), **settings, **options), tmp_path
    )


@pytest.mark.parametrize("signal", ["full", "top_k", "sampled"])
@pytest.mark.parametrize("padded", ["teacher", "model"])
def test_distill_reads_only_columns_that_both_models_have(
    tmp_path: Path, tokenizer: Any, signal: str, padded: str
) -> None:
    plain = make_trainer(tmp_path / "plain", tokenizer, signal=signal)
    batch = collected(plain)
    models = {"model": tiny_lm(tokenizer, seed=1), "teacher": tiny_lm(tokenizer, seed=2)}
    models[padded].resize_token_embeddings(len(tokenizer) + 7, mean_resizing=False)
    with torch.no_grad():
        models[padded].lm_head.weight[len(tokenizer) :] = 10  # where they were read, they would take all probability
    config = DistillConfig(str(tmp_path / "padded"), **SETTINGS, signal=signal)
    trainer = DistillTrainer(models["model"], config, PROMPTS, None, tokenizer, teacher=models["teacher"])
    found = collected(trainer)
    assert torch.equal(found["input_ids"], batch["input_ids"])
    loss, expected = (one.compute_loss(one.model, batch) for one, batch in ((trainer, found), (plain, batch)))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_distill_refuses_a_teacher_without_logits_of_all_tokens(tmp_path: Path, tokenizer: Any) -> None:
    small = tiny_lm(tokenizer, seed=2)
    small.resize_token_embeddings(len(tokenizer) - 1)
    for rows, message in ((tokenizer, f"{len(tokenizer)} tokens, got {len(tokenizer) - 1}"), (None, "tokens, got")):
        with pytest.raises(ValueError, match=f"teacher: expected logits over the policy's .*{message}"):
            DistillTrainer(
                tiny_lm(tokenizer), DistillConfig(str(tmp_path), **SETTINGS), PROMPTS, None, rows, teacher=small
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.5}, r"beta: expected 0 <= beta <= 1, got 1.5"),
        ({"signal": "all"}, r"signal: expected one of 'full', 'top_k', 'sampled', got 'all'"),
        ({"signal": "top_k", "beta": 0.5}, r"beta: expected 0 or 1 with signal='top_k', got 0.5"),
        ({"signal": "sampled", "beta": 0.0}, r"beta: expected 1 with signal='sampled', got 0.0"),
        ({"top_k": 0}, r"top_k: expected 1 <= top_k <= 256, got 0"),
    ],
)
def test_distill_refuses_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillConfig(use_cpu=True, **options)


def test_distill_refuses_a_teacher_of_other_tokens(tmp_path: Path, tokenizer: Any) -> None:
    model, config = tiny_lm(tokenizer), DistillConfig(str(tmp_path), **SETTINGS)
    with pytest.raises(ValueError, match="teacher: expected a frozen model of its own, got the model"):
        DistillTrainer(model, config, PROMPTS, None, tokenizer, teacher=model)
    small = type(model)(tiny_config(tokenizer))
    small.resize_token_embeddings(64)
    with pytest.raises(ValueError, match=rf"teacher: .* over the policy's {len(tokenizer)} tokens, got 64"):
        DistillTrainer(model, config, PROMPTS, None, tokenizer, teacher=small)


def test_distill_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    quick = ("--use_cpu", "--disable_tqdm=True", "--max_new_tokens=4", "--max_prompt_length=32", "--num_train_epochs=1")
    rows = write_jsonl(tmp_path / "prompts.jsonl", prompts())
    data = ("--prompts", str(rows), "--model", files["lm"], *quick)
    assert cli.main(["train", "distill", *data, "--output_dir", files["out"]]) == 2
    assert "teacher: expected a directory, got none (--teacher DIR)" in capsys.readouterr().err
    options = ("--teacher", files["lm"], "--per_device_train_batch_size=2", "--signal", "sampled")
    assert cli.main(["train", "distill", *data, *options, "--output_dir", files["out"]]) == 0
    assert "held out\n  loss  " in capsys.readouterr().out
    assert (Path(files["out"]) / "model.safetensors").is_file()
