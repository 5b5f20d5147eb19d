import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from segkernel import _cli as cli
from segkernel._library import cuda_kernels
from segkernel.training.trainer.run_directory import check_record, check_run_directory, find_checkpoint, run_record
from tests.training.trainer_helpers import (
    pairs,
    tiny_config,
    tiny_reward_model,
    tiny_tokenizer,
    write_files,
    write_jsonl,
)

SMALL = ("--hidden_size=32", "--intermediate_size=48", "--num_hidden_layers=2", "--num_attention_heads=2")
QUICK = (
    "--use_cpu",
    "--disable_tqdm=True",
    "--max_length=64",
    "--logging_steps=1",
    "--per_device_train_batch_size=4",
    "--seed=7",
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return write_files(tmp_path)


def run(*arguments: str) -> int:
    return cli.main(["train", *arguments, *QUICK])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run, expect an error before any training, and return what it said."""
    capsys.readouterr()
    assert run(*arguments) == 2
    message = capsys.readouterr().err
    assert message.count("segkernel: error: ") == 1
    assert "Traceback" not in message
    return message


def test_from_texts_to_a_policy(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm, rm, policy = (str(tmp_path / name) for name in ("new-lm", "new-rm", "policy"))
    small = (*SMALL, "--vocab_size=290", "--num_train_epochs=1")
    assert run("--method", "pretrain", "--texts", files["texts"], "--output_dir", lm, *small) == 0
    data = ("--preferences", files["preferences"], "--model", lm, "--num_train_epochs=1", "--separator", " ")
    assert run("--method", "reward", *data, "--output_dir", rm) == 0
    assert run("--method", "asr-dpo", *data, "--reward_model", rm, "--output_dir", policy, "--delta", "0.1") == 0

    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (lm, policy))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    state = json.loads((Path(policy) / "trainer_state.json").read_text())
    logged = set().union(*state["log_history"])
    assert {"loss", "kept_chosen", "segments/chosen", "eval_rewards/accuracies_low", "eval_pairs"} <= logged
    assert json.loads((Path(policy) / "run.json").read_text())["method"] == "asr-dpo"
    page = (Path(policy) / "report.html").read_text()
    # The held-out pairs, their segments and the curves.
    assert "say " in page
    assert "kept_chosen" in page
    printed = capsys.readouterr().out
    assert f"report: {Path(policy) / 'report.html'}" in printed
    assert "eval_rewards/accuracies" in printed


def test_resume_from_the_command_line(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--method=dpo", "--preferences", files["preferences"], "--model", files["lm"], "--num_train_epochs=2"]
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    assert run(*common, "--output_dir", whole) == 0
    # The run as it was when its first epoch was saved.
    assert run(*common, "--output_dir", cut) == 0
    for path in Path(cut).glob("*.safetensors"):
        path.unlink()
    checkpoints = sorted(Path(cut).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 2
    for path in checkpoints[1].iterdir():
        path.unlink()
    checkpoints[1].rmdir()

    assert "already holds a run (checkpoint-" in refused(capsys, *common, "--output_dir", cut)
    assert run(*common, "--output_dir", cut, "--resume_from_checkpoint", "last") == 0
    weights = [load_file(Path(path) / "model.safetensors") for path in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    # A checkpoint from elsewhere does not make room in a directory that holds a run.
    elsewhere = ("--output_dir", whole, "--resume_from_checkpoint", str(checkpoints[0]))
    assert "already holds a run" in refused(capsys, *common, *elsewhere)

    # Another method, other data or another start would mix two runs.
    resumed = ("--output_dir", cut, "--resume_from_checkpoint", "last")
    assert "had method='dpo', this one has 'reward'" in refused(capsys, "--method=reward", *common[1:], *resumed)
    assert "had model=" in refused(capsys, *common, *resumed, "--model", files["rm"])
    write_jsonl(Path(files["preferences"]), pairs()[:-1])
    assert "had data_sha256=" in refused(capsys, *common, *resumed)


def test_bad_input_is_refused_before_anything_is_written(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asr = ("--method=asr-dpo", "--model", files["lm"], "--output_dir", files["out"])
    data = ("--preferences", files["preferences"])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt"\n')
    other = tiny_tokenizer()
    other.add_tokens(["red red"])
    strange = tmp_path / "strange"
    tiny_reward_model(other).save_pretrained(strange)
    other.save_pretrained(strange)
    classifier = tmp_path / "classifier"
    LlamaForSequenceClassification(tiny_config(other, num_labels=1, pad_token_id=0)).save_pretrained(classifier)
    other.save_pretrained(classifier)
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((*asr, "--reward_model", files["rm"]), "preferences: expected a JSONL file, got none"),
        ((*asr, "--preferences", "none.jsonl"), "reward_model: expected a directory"),
        ((*asr, "--preferences", "none.jsonl", "--reward_model", files["rm"]), "there is no file 'none.jsonl'"),
        ((*asr, "--preferences", str(broken), "--reward_model", files["rm"]), "broken.jsonl, line 2: malformed JSON"),
        ((*asr, *data, "--reward_model", files["lm"]), "reward_model: expected a model with one score per token"),
        ((*asr, *data, "--reward_model", str(strange)), "reward_model: the tokenizer of"),
        ((*asr, *data, "--reward_model", "./none"), "reward_model: there is no directory './none'"),
        ((*asr, *data, "--reward_model", files["rm"], "--model", "./none"), "model: there is no directory './none'"),
        (
            (*asr, *data, "--check_calculations", "--model", str(classifier)),
            "model: expected a causal language model, got LlamaForSequenceClassification",
        ),
        ((*asr, *data, "--reward_model", files["rm"], "--delta=-1"), "delta: expected a number of at least 0"),
        ((*asr, *data, "--token_rewards=column"), "line 1: expected the key 'chosen_token_rewards'"),
        (
            (*asr, *data, "--reward_model", files["rm"], "--eval_fraction=1"),
            "eval_fraction: expected a share in [0, 1)",
        ),
        ((*asr, *data, "--reward_model", files["rm"], "--resume_from_checkpoint=last"), "there is no checkpoint in"),
        (("--method=pretrain", "--texts", files["texts"], "--vocab_size=10"), "vocab_size: expected at least 258"),
    ]
    for arguments, message in cases:
        assert message in refused(capsys, *arguments)
    assert not list(Path(files["out"]).glob("checkpoint*")) + list(Path(files["out"]).glob("*.safetensors"))


def test_token_rewards_from_the_data(files: dict[str, str], tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    rows = pairs()
    for row in rows:
        row["up"] = [1.0] * len(tokenizer(row["chosen"])["input_ids"])
        row["down"] = [-1.0] * len(tokenizer(row["rejected"])["input_ids"])
    path = write_jsonl(tmp_path / "rewards.jsonl", rows)
    columns = ("--token_rewards=column", "--chosen_rewards_column=up", "--rejected_rewards_column=down")
    arguments = ("--method=asr-dpo", "--preferences", str(path), "--model", files["lm"], "--output_dir", files["out"])
    assert run(*arguments, *columns, "--num_train_epochs=1", "--baseline=0", "--logging_steps=1") == 0
    history = json.loads((Path(files["out"]) / "trainer_state.json").read_text())["log_history"]
    assert [log["kept_chosen"] for log in history if "kept_chosen" in log] == [1.0, 1.0, 1.0]


def test_help_lists_methods_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    assert f"{{{','.join(cli.METHODS)}}}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--method", "asr-dpo", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--preferences", "--reward_model", "--delta", "--gradient_accumulation_steps", "--bf16"):
        assert f"{option} " in text
    assert "Half the width of the trigger's neutral zone" in text


@pytest.mark.parametrize("arguments", [[], ["train"], ["train", "--method", "none"], ["info", "extra"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: segkernel" in capsys.readouterr().err


def test_info_names_versions_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"].split()[0] == torch.__version__
    assert lines["cpu"].split(",")[0] == "loaded"
    problem = cuda_kernels.problem
    assert lines["cuda"] == ("loaded" if problem is None else f"not loaded: {problem}")
    assert ("toolkit" in lines) == (cuda_kernels.toolkit != "")
    assert "GPU" in lines["device"] or "cuda:0" in lines["device"]


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('No module named transformers')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "segkernel", "train", "--method", "dpo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'segkernel[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_segkernel_imports_no_transformers() -> None:
    code = "import segkernel, segkernel._cli, sys; segkernel.segment; print('transformers' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_run_directory(tmp_path: Path) -> None:
    check_run_directory(tmp_path / "none", resuming=False)
    (tmp_path / "run.json").write_text("{}")
    # A run that ended before it saved anything may start over.
    check_run_directory(tmp_path, resuming=False)
    (tmp_path / "model.safetensors").touch()
    check_run_directory(tmp_path, resuming=True)
    with pytest.raises(FileExistsError, match=r"already holds a run \(model\.safetensors\)"):
        check_run_directory(tmp_path, resuming=False)
    assert find_checkpoint(tmp_path, None) is None
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        find_checkpoint(tmp_path, "last")
    with pytest.raises(FileNotFoundError, match="is not a checkpoint of a trainer"):
        find_checkpoint(tmp_path, str(tmp_path))
    for step in (9, 10, 11, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    # What a run leaves that was killed while it wrote a checkpoint.
    (tmp_path / "checkpoint-11" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-12" / "trainer_state.json").write_text("")
    assert find_checkpoint(tmp_path, "last") == str(tmp_path / "checkpoint-10")
    assert find_checkpoint(tmp_path, str(tmp_path / "checkpoint-9")) == str(tmp_path / "checkpoint-9")
    # A directory without a record cannot be compared, and is not refused.
    check_record(tmp_path / "none", run_record("dpo", tmp_path / "run.json", None))


def test_rewards_that_a_dpo_policy_implies(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--preferences", files["preferences"], "--num_train_epochs=1")
    policy, out = str(tmp_path / "policy"), str(tmp_path / "out")
    assert run("--method=dpo", *common, "--model", files["lm"], "--output_dir", policy, "--learning_rate=1e-3") == 0
    rewards = ("--reward_policy", policy, "--output_dir", out)
    start = ("--method=asr-dpo", *common, *rewards)
    assert "model: expected the model that --reward_policy was trained from, got none" in refused(
        capsys, *start, "--tokenizer", policy
    )
    start = (*start, "--model", files["lm"])
    assert f"expected one source of rewards, got {files['rm']} and policy {policy}" in refused(
        capsys, *start, "--reward_model", files["rm"]
    )
    assert f"expected no other source beside `column`, got policy {policy}" in refused(
        capsys, *start, "--token_rewards=column"
    )
    assert run(*start) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["rewards"] == f"policy {policy}"
    assert "reward_policy: expected a causal language model" in refused(
        capsys,
        "--method=asr-dpo",
        *common,
        "--model",
        files["lm"],
        "--reward_policy",
        files["rm"],
        "--output_dir",
        out + "2",
    )
