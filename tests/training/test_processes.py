"""Runs from the command line in two processes, and killed halfway."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segkernel import _cli as cli
from tests.training.fsdp_on_cpu import shard_on_cpu
from tests.training.processes import run_distributed
from tests.training.trainer_helpers import assert_same_bits, write_files

pytestmark = pytest.mark.slow

COMMON = ("--use_cpu", "--disable_tqdm=True", "--seed=7", "--learning_rate=1e-3", "--delta=0.1", "--logging_steps=1")
METHODS = {
    "asr-dpo": ("--max_length=64",),
    # Both processes sample the rollout.
    "asr-ppo": ("--max_new_tokens=8", "--max_prompt_length=64", "--minibatches=2", "--rollout_epochs=2"),
    # The processes divide the sampling before training.
    "asr-rft": ("--max_new_tokens=8", "--max_prompt_length=64", "--samples=3"),
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return write_files(tmp_path, count=19)  # of which 3 are held out


def arguments(files: dict[str, str], output_dir: Path, *options: str, method: str = "asr-dpo") -> list[str]:
    data = "--preferences" if method == "asr-dpo" else "--prompts"
    start = (data, files["preferences"], "--model", files["lm"], "--reward_model", files["rm"], "--eval_fraction=0.15")
    return ["train", method, *COMMON, *METHODS[method], *start, "--output_dir", str(output_dir), *options]


SETUPS = {"ddp": None, "fsdp": shard_on_cpu}


def history(output_dir: Path) -> list[dict[str, float]]:
    state: dict[str, Any] = json.loads((output_dir / "trainer_state.json").read_text(encoding="utf-8"))
    return state["log_history"]


@pytest.mark.parametrize(
    ("method", "sharding"), [*((method, "ddp") for method in METHODS), ("asr-dpo", "fsdp"), ("asr-ppo", "fsdp")]
)
def test_two_processes_reproduce_one(files: dict[str, str], tmp_path: Path, method: str, sharding: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    # 3 held-out rows, two at a time: the last batch of two processes is filled up with rows that count once.
    options = ("--num_train_epochs=2", "--per_device_eval_batch_size=2")
    # Four rows per step: in one batch, or in two processes, where possible in two micro-batches of one row each. (A
    # rollout has other minibatches for another batch size.)
    sizes = ("--per_device_train_batch_size=1", "--gradient_accumulation_steps=2")
    if method == "asr-ppo":
        sizes = ("--per_device_train_batch_size=2", "--gradient_accumulation_steps=1")
    command = arguments(files, two, *options, *sizes, method=method)
    assert run_distributed(command, tmp_path / "log", setup=SETUPS[sharding]).count("report: ") == 1
    assert len(list(two.glob("checkpoint-*/rng_state_1.pth"))) == 2
    assert cli.main(arguments(files, one, *options, "--per_device_train_batch_size=4", method=method)) == 0

    for single, double in zip(history(one), history(two), strict=True):
        assert single.keys() == double.keys()
        for name in single.keys() - {"total_flos", "train_runtime", "eval_runtime"}:
            if not name.endswith("_per_second"):
                assert double[name] == pytest.approx(single[name], rel=1e-5, abs=1e-5), name
    start, single, double = (load_file(Path(path) / "model.safetensors") for path in (files["lm"], one, two))
    assert any((single[name] - start[name]).abs().max() > 1e-3 for name in single)
    for name, weight in single.items():
        torch.testing.assert_close(double[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "sharding"), [("asr-ppo", "ddp"), ("asr-dpo", "fsdp")])
def test_adapters_in_two_processes_reproduce_one(
    files: dict[str, str], tmp_path: Path, method: str, sharding: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options = ("--max_steps=2", "--eval_strategy=no", "--peft=lora", "--lora_r=2")
    command = arguments(files, two, *options, "--per_device_train_batch_size=2", method=method)
    run_distributed(command, tmp_path / "log", setup=SETUPS[sharding])
    assert cli.main(arguments(files, one, *options, "--per_device_train_batch_size=4", method=method)) == 0
    for folder in (".", "value") if method == "asr-ppo" else (".",):
        single, double = (load_file(path / folder / "adapter_model.safetensors") for path in (one, two))
        assert any("lora_B" in name and weight.abs().max() > 1e-3 for name, weight in single.items())
        for name, weight in single.items():
            torch.testing.assert_close(double[name], weight, rtol=0, atol=1e-5)


def test_ppo_with_adapters_refuses_sharding(files: dict[str, str], tmp_path: Path) -> None:
    command = arguments(files, tmp_path / "out", "--peft=lora", "--per_device_train_batch_size=2", method="asr-ppo")
    with pytest.raises(AssertionError, match="fsdp: expected models without adapters, got one with an adapter"):
        run_distributed(command, tmp_path / "log", setup=shard_on_cpu)


def test_sharded_run_resumes_in_the_middle_of_a_rollout(files: dict[str, str], tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--num_train_epochs=2", "--per_device_train_batch_size=2", "--save_strategy=steps", "--save_steps=6")
    run_distributed(arguments(files, whole, *options, method="asr-ppo"), tmp_path / "log", setup=shard_on_cpu)
    # Restore the state of the run after step 6, the second of a rollout's four.
    shutil.copytree(whole / "checkpoint-6", cut / "checkpoint-6")
    shutil.copy(whole / "run.json", cut)
    resume = arguments(files, cut, *options, "--resume_from_checkpoint=last", method="asr-ppo")
    run_distributed(resume, tmp_path / "log", setup=shard_on_cpu)
    assert history(cut)[-1]["step"] == 16
    for name in ("model.safetensors", "value/model.safetensors"):
        finished, resumed = (load_file(path / name) for path in (whole, cut))
        assert_same_bits(finished, resumed)
