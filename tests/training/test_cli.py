import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification, TrainingArguments

from segkernel import _cli as cli
from segkernel import training
from segkernel._arguments import UserError
from segkernel._library import cuda_kernels
from segkernel.training import REQUIREMENTS
from segkernel.training.cli.build import option_parser
from segkernel.training.cli.options import COMMON
from segkernel.training.methods.registry import METHODS
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
    """Run, expect a one-line error before any training, and return it."""
    capsys.readouterr()
    assert run(*arguments) == 2
    message = capsys.readouterr().err
    assert message.count("segkernel: error: ") == 1
    assert "Traceback" not in message
    return message


@pytest.mark.charts
def test_train_pretrain_reward_and_asr_dpo_in_sequence(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm, rm, policy = (str(tmp_path / name) for name in ("new-lm", "new-rm", "policy"))
    small = (*SMALL, "--vocab_size=290", "--num_train_epochs=1")
    assert run("pretrain", "--texts", files["texts"], "--output_dir", lm, *small) == 0
    data = ("--preferences", files["preferences"], "--model", lm, "--num_train_epochs=1", "--separator", " ")
    assert run("reward", *data, "--output_dir", rm) == 0
    assert run("asr-dpo", *data, "--reward_model", rm, "--output_dir", policy, "--delta", "0.1") == 0

    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (lm, policy))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    state = json.loads((Path(policy) / "trainer_state.json").read_text())
    logged = set().union(*state["log_history"])
    assert {"loss", "kept_chosen", "segments/chosen", "eval_rewards/accuracies_low", "eval_pairs"} <= logged
    assert json.loads((Path(policy) / "run.json").read_text())["method"] == "asr-dpo"
    page = (Path(policy) / "report.html").read_text()
    # The held-out pairs, their segments and the curves.
    assert "say " in page
    assert "accuracy <code>rewards/accuracies</code>" in page
    printed = capsys.readouterr().out
    assert f"report: {Path(policy) / 'report.html'}" in printed
    assert re.search(r"^  accuracy +\S+ \(95 % interval", printed, re.MULTILINE)


def test_train_refuses_bad_input_before_writing(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asr = ("asr-dpo", "--model", files["lm"], "--output_dir", files["out"])
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
        ((*asr, "--reward_model", files["rm"]), "preferences: expected a .jsonl, .json, .csv or .parquet file"),
        ((*asr, "--preferences", "none.jsonl"), "reward_model: expected a directory"),
        ((*asr, "--preferences", "none.jsonl", "--reward_model", files["rm"]), "there is no file 'none.jsonl'"),
        ((*asr, "--preferences", str(broken), "--reward_model", files["rm"]), "broken.jsonl, line 2: malformed JSON"),
        ((*asr, *data, "--reward_model", files["lm"]), "reward_model: expected a reward model, with one score"),
        (
            (*asr, *data, "--reward_model", str(strange)),
            "reward_model: expected the policy's tokenizer, got another one in",
        ),
        ((*asr, *data, "--reward_model", "./none"), "reward_model: there is no directory './none'"),
        ((*asr, *data, "--reward_model", files["rm"], "--model", "./none"), "model: there is no directory './none'"),
        (
            (*asr, *data, "--check_calculations", "--model", str(classifier)),
            "model: expected a causal language model, got LlamaForSequenceClassification",
        ),
        ((*asr, *data, "--reward_model", files["rm"], "--delta=-1"), "delta: expected >= 0"),
        ((*asr, *data, "--token_rewards=column"), "line 1: expected the key 'chosen_token_rewards'"),
        (
            (*asr, *data, "--reward_model", files["rm"], "--eval_fraction=1"),
            "eval_fraction: expected 0 <= eval_fraction < 1",
        ),
        ((*asr, *data, "--reward_model", files["rm"], "--resume_from_checkpoint=last"), "there is no checkpoint in"),
        (("pretrain", "--texts", files["texts"], "--vocab_size=10"), "vocab_size: expected at least 258"),
        ((*asr, *data, "--check_calculations", "--output_dir", files["texts"]), "output_dir: expected a directory"),
        ((*asr, *data, "--check_calculations", "--beta=-1"), "beta: expected a finite number > 0, got -1.0"),
        ((*asr, *data, "--check_calculations", "--report_to=none_such"), "report_to: none_such is not supported"),
        (
            (*asr, *data, "--check_calculations", "--per_device_eval_batch_size=0"),
            "_eval_batch_size: expected >= 1",
        ),
    ]
    for arguments, message in cases:
        assert message in refused(capsys, *arguments)
    assert not list(Path(files["out"]).glob("checkpoint*")) + list(Path(files["out"]).glob("*.safetensors"))


def test_asr_dpo_reads_token_rewards_from_columns(files: dict[str, str], tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    rows = pairs()
    for row in rows:
        row["up"] = [1.0] * len(tokenizer(row["chosen"])["input_ids"])
        row["down"] = [-1.0] * len(tokenizer(row["rejected"])["input_ids"])
    path = write_jsonl(tmp_path / "rewards.jsonl", rows)
    columns = ("--token_rewards=column", "--chosen_rewards_column=up", "--rejected_rewards_column=down")
    arguments = ("asr-dpo", "--preferences", str(path), "--model", files["lm"], "--output_dir", files["out"])
    assert run(*arguments, *columns, "--num_train_epochs=1", "--logging_steps=1") == 0
    history = json.loads((Path(files["out"]) / "trainer_state.json").read_text())["log_history"]
    assert [log["kept_chosen"] for log in history if "kept_chosen" in log] == [1.0, 1.0, 1.0]


def printed_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["train"], ["train", "--help"]])
def test_train_lists_every_method_once_in_its_group(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^  (\S+) +(.*)$", text, re.MULTILINE)
    assert [name for name, _ in listed] == list(METHODS)
    assert all(summary.startswith(METHODS[name].summary) for name, summary in listed)
    assert {line[:-1] for line in text.splitlines() if line.endswith(":")} == {m.group for m in METHODS.values()}
    assert max(map(len, text.splitlines())) <= 80


def sections(text: str) -> dict[str, list[str]]:
    """Options of a help text by heading."""
    parts = re.split(r"^(\S.*):$", text, flags=re.MULTILINE)
    return {
        title: re.findall(r"^  (--\w+)", body, re.MULTILINE)
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_method_help_shows_its_own_options_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = printed_help(capsys, "train", "asr-dpo", "--help")
    shown = sections(text)
    assert list(shown) == ["asr-dpo", "segments", "rewards", "data", "model", "adapters", "training", "help"]
    assert shown["adapters"][0::8] == ["--peft", "--merge_adapter"]
    assert {"--beta", "--max_length"} <= set(shown["asr-dpo"])
    assert {"--delta", "--baseline", "--hold"} <= set(shown["segments"])
    assert "--reward_model" in shown["rewards"]
    assert shown["data"][0] == "--preferences"
    assert shown["training"] == [f"--{name}" for name in COMMON]
    assert "Half the width of the trigger's neutral zone" in " ".join(text.split())
    # Every group fits a screen.
    assert max(map(len, text.splitlines())) <= 80
    assert max(len(part.splitlines()) for part in re.split(r"\n\n", text)) <= 50
    # No option is shown twice, and none of the Trainer's is under a heading of the method's.
    options = [option for group in shown.values() for option in group]
    assert len(options) == len(set(options))
    trainer = {f"--{field.name}" for field in fields(TrainingArguments)}
    assert not trainer & {option for title in list(shown)[:-2] for option in shown[title]}


@pytest.mark.parametrize("method", METHODS)
def test_help_all_shows_every_option(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = sections(printed_help(capsys, "train", method, "--help-all"))
    config, _ = METHODS[method].load()
    options = {option for group in shown.values() for option in group}
    unused = {f"--{name}" for name in config.unused_options}
    assert {f"--{field.name}" for field in fields(config)} - unused <= options
    assert not options & unused
    assert len(shown["other options of transformers.TrainingArguments"]) > 60


def test_options_without_an_effect_are_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("dpo", "ppo"):
        parser = option_parser(METHODS[method])
        config, _ = METHODS[method].load()
        for name, reason in config.unused_options.items():
            for option in (f"--{name}", f"--{name.replace('_', '-')}", f"--no_{name}"):
                with pytest.raises(UserError, match=re.escape(f"{option} is not available here: {reason}")):
                    parser.parse([f"{option}=1"])
    assert cli.main(["train", "dpo", "--deepspeed", "x.json"]) == 2
    expected = "--deepspeed is not available here: shard with FSDP2 (`accelerate launch --use_fsdp --fsdp_version 2`)"
    assert capsys.readouterr().err == f"segkernel: error: {expected}\n"
    assert "data_seed" not in METHODS["dpo"].load()[0].unused_options
    with pytest.raises(ValueError, match=r"label_smoothing_factor: expected 0\.0, since the losses .*, got 0\.1"):
        training.DPOConfig(label_smoothing_factor=0.1)


VALUES = {
    # Values of any method's numbers, before any file is looked at.
    "dpo --beta=0": "beta: expected a finite number > 0, got 0.0",
    "dpo --learning_rate -1e-3": "learning_rate: expected a finite number >= 0, got -0.001",
    "dpo --learning_rate=-1e-3": "learning_rate: expected a finite number >= 0, got -0.001",
    "dpo --learning_rate nan": "learning_rate: expected a finite number >= 0, got nan",
    "dpo --learning_rate inf": "learning_rate: expected a finite number >= 0, got inf",
    "dpo --per_device_train_batch_size 0": "per_device_train_batch_size: expected >= 1, got 0",
    "dpo --gradient_accumulation_steps -2": "gradient_accumulation_steps: expected >= 1, got -2",
    "dpo --num_train_epochs 0": "num_train_epochs: expected a finite number > 0, got 0.0",
    "dpo --max_steps 0": "max_steps: expected >= 1, or -1 for a run by epochs, got 0",
    "dpo --adam_beta2 1": "adam_beta2: expected 0 <= adam_beta2 < 1, got 1.0",
    "dpo --seed -1": "seed: expected 0 <= seed < 4294967296, got -1",
    "dpo --save_steps 0": "save_steps: expected a finite number > 0, got 0.0",
    "dpo --logging_steps -5": "logging_steps: expected a finite number > 0, got -5.0",
    "dpo --max_length 0": "max_length: expected >= 1, got 0",
    "dpo --lr_scheduler_kwargs x": "lr_scheduler_kwargs: expected a JSON object such as {\"key\": 1}, got 'x'",
    "ppo --temperature 0": "temperature: expected a ",
    "ppo --kl_coef nan": "kl_coef: expected a ",
    "ppo --reward_policy_beta 0": "reward_policy_beta: expected a finite number > 0, got 0.0",
    "ppo --gamma 1.5": "gamma: expected 0 <= gamma <= 1, got 1.5",
    "rft --samples 0": "samples: expected >= 1, got 0",
    "distill --signal x": "--signal: expected full, top_k or sampled, got 'x'",
}


@pytest.mark.parametrize("arguments", VALUES)
def test_values_out_of_range_are_one_line(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *arguments.split()]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"segkernel: error: {VALUES[arguments]}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "COMMAND: expected train, inspect, run or info, got none (see `segkernel --help`)"),
        ("trian", "COMMAND: expected train, inspect, run or info, got 'trian'; did you mean train?"),
        ("tr", "COMMAND: expected train, inspect, run or info, got 'tr'"),
        ("info extra", "unexpected argument 'extra'"),
        ("train asr-dop", "METHOD: there is no method 'asr-dop'; did you mean asr-dpo?"),
        ("train none", "METHOD: there is no method 'none' (see `segkernel train`)"),
        ("train --method dpo", "METHOD: expected a method before the options, got --method (see `segkernel train`)"),
        ("train dpo --learning_rat 1", "there is no option --learning_rat; did you mean --learning_rate?"),
        ("train dpo --learning-rat=1", "there is no option --learning-rat; did you mean --learning-rate?"),
        ("train dpo --learning 1", "there is no option --learning; did you mean --learning_rate?"),
        ("train dpo extra", "unexpected argument 'extra'"),
        ("train dpo --beta", "--beta: expected one argument"),
        ("train dpo --max_length x", "--max_length: expected an integer, got 'x'"),
        ("train dpo --bf16 maybe", "--bf16: expected true or false, got 'maybe'"),
        (
            "train asr-dpo --token_rewards diference",
            "--token_rewards: expected difference, prefix or column, got 'diference'; did you mean difference?",
        ),
        (
            "train dpo --eval_strategy epohc",
            "--eval_strategy: expected no, steps or epoch, got 'epohc'; did you mean epoch?",
        ),
        ("inspect --row 3", "there is no option --row; did you mean --rows?"),
        ("inspect --rows=0", "rows: expected >= 1, got 0"),
        ("inspect --preferences none.jsonl --token_rewards=column --tokenizer .", "there is no file 'none.jsonl'"),
    ],
)
def test_usage_errors_are_one_line_with_the_nearest_spelling(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("segkernel: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    if "did you mean" not in message:
        assert "did you mean" not in printed.err


def test_top_level_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_help(capsys, "--help")
    assert re.findall(r"^    (\w+)", text, re.MULTILINE) == ["train", "inspect", "run", "info"]


def test_info_names_versions_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"].split()[0] == torch.__version__
    assert lines["cpu"].split(",")[0] == "loaded"
    assert lines["training"] == f"transformers {transformers.__version__}"
    problem = cuda_kernels.problem
    assert lines["cuda"] == ("loaded" if problem is None else f"not loaded: {problem}")
    assert ("toolkit" in lines) == (cuda_kernels.toolkit != "")
    assert "GPU" in lines["device"] or "cuda:0" in lines["device"]


@pytest.mark.parametrize("package", REQUIREMENTS)
@pytest.mark.parametrize("arguments", ["train", "train dpo", "inspect"])
def test_missing_package_of_the_extra_is_named(
    package: str, arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    block(package, monkeypatch)
    assert cli.main(arguments.split()) == 2
    expected = f"segkernel.training needs {package}, which is not installed: pip install 'segkernel[train]'"
    assert capsys.readouterr().err == f"segkernel: error: {expected}\n"
    # Commands outside segkernel.training work without it.
    assert cli.main(["info"]) == 0
    assert f"training   not available: {expected}\n" in capsys.readouterr().out
    assert "inspect" in printed_help(capsys, "--help")


def block(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `package` impossible to import, and forget the modules that were imported with it."""
    for name in [name for name in sys.modules if f"{name}.".startswith("segkernel.training.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", ["transformers", "matplotlib", "jinja2", "rich", "tqdm"])
def test_missing_package_is_named_without_a_traceback(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from segkernel._cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, "train", "dpo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"needs {package}, which is not installed: pip install 'segkernel[train]'" in done.stderr


def test_missing_package_of_the_capitals_example_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    block("rich", monkeypatch)
    for name in [name for name in sys.modules if name.startswith("examples.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"needs rich, which is not installed: pip install 'segkernel\[train\]'"):
        importlib.import_module("examples.capitals.__main__")


def test_required_packages_are_those_of_the_extra() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    (extra,) = re.findall(r"^train = \[(.*?)\]$", project, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r'"([\w-]+)>', extra)) == sorted(REQUIREMENTS)


def test_registry_and_exports_agree() -> None:
    for method in METHODS.values():
        config, trainer = method.load()
        assert (config.__module__, trainer.__module__) == (method.module, method.module)
        assert getattr(training, config.__name__) is config
        assert getattr(training, trainer.__name__) is trainer
    assert set(training.__all__) == {name for method in METHODS.values() for name in method.class_names}
    assert set(training.__all__) <= set(dir(training))
    with pytest.raises(AttributeError, match=r"'segkernel\.training' has no attribute 'none'"):
        training.none  # noqa: B018


def test_importing_segkernel_imports_no_transformers() -> None:
    code = "import segkernel, segkernel._cli, sys; segkernel.segment; print('transformers' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_asr_dpo_reads_rewards_from_a_dpo_policy(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--preferences", files["preferences"], "--num_train_epochs=1")
    policy, out = str(tmp_path / "policy"), str(tmp_path / "out")
    assert run("dpo", *common, "--model", files["lm"], "--output_dir", policy, "--learning_rate=1e-3") == 0
    rewards = ("--reward_policy", policy, "--output_dir", out)
    start = ("asr-dpo", *common, *rewards)
    assert "model: expected the model that --reward_policy was trained from, got none" in refused(
        capsys, *start, "--tokenizer", policy
    )
    start = (*start, "--model", files["lm"])
    assert f"expected one source of rewards, got {files['rm']} and policy {policy}" in refused(
        capsys, *start, "--reward_model", files["rm"]
    )
    assert f"expected no other source with `column`, got policy {policy}" in refused(
        capsys, *start, "--token_rewards=column"
    )
    assert run(*start) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["rewards"] == f"policy {policy}"
    assert "reward_policy: expected a causal language model" in refused(
        capsys,
        "asr-dpo",
        *common,
        "--model",
        files["lm"],
        "--reward_policy",
        files["rm"],
        "--output_dir",
        out + "2",
    )


@pytest.fixture(scope="module")
def shared_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that no test changes."""
    return write_files(tmp_path_factory.mktemp("shared"))


def test_mistakes_in_paths_and_files_are_one_line(
    shared_files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    (tmp_path / "directory").mkdir()
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    lm, pairs_file = shared_files["lm"], shared_files["preferences"]
    cases = {
        # Files in place of directories, and the other way round.
        f"--output_dir={pairs_file}": "output_dir: expected a directory, got the file",
        f"--output_dir={pairs_file}/x": "output_dir: expected a directory, got the file",
        "--output_dir=/proc/x": "output_dir: '/proc/x' cannot be written: No such file or directory",
        f"--output_dir={tmp_path}/{'x' * 300}": "cannot be written: File name too long",
        "--output_dir=": "output_dir: expected a directory, got ''",
        "--output_dir=a\0b": "output_dir: expected a directory, got 'a\\x00b'",
        f"--preferences={lm}": "preferences: expected a",
        "--preferences=a\0b": "preferences: there is no file",
        f"--preferences={empty}": "expected at least 2 preference pairs, got 0",
        f"--model={pairs_file}": "model: expected a directory",
        f"--model={tmp_path}/rmm": f"model: there is no directory '{tmp_path}/rmm'",
        f"--model={tmp_path}/directory": "model: ",
        f"--tokenizer={pairs_file}": "tokenizer: expected a directory",
        f"--resume_from_checkpoint={pairs_file}": "resume_from_checkpoint: there is no directory",
        f"--resume_from_checkpoint={lm}": "is not a checkpoint of a trainer",
        "--report_to=clearml": "report_to: ClearMLCallback requires 'clearml' to be installed",
        "--optim=adamw_8bit": "You need to install `bitsandbytes`",
        "--lr_scheduler_type=cosine_with_min_lr": "the training could not be set up with these options: One of min_lr",
        "--load_best_model_at_end --metric_for_best_model=x": "metric_for_best_model: expected one of ",
        "--gradient_checkpointing_kwargs={x": "gradient_checkpointing_kwargs: expected a JSON object",
    }
    if os.geteuid() != 0:  # root may write everywhere
        cases[f"--output_dir={sealed}/out"] = "is not writable"
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        for content in (b"", b"{", b"\xff\xfe\x00"):
            damaged = tmp_path / f"{name}-{len(content)}"
            shutil.copytree(lm, damaged)
            (damaged / name).write_bytes(content)
            cases[f"--model={damaged}"] = "model: "
    common = ("dpo", "--preferences", pairs_file, "--model", lm, "--max_steps=1", "--save_strategy=epoch")
    for number, (options, message) in enumerate(cases.items()):
        capsys.readouterr()
        status = run(*common, f"--output_dir={tmp_path}/out-{number}", *options.split(" "))
        errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert status == 2, options
        assert len(errors) == 1, options
        assert errors[0].startswith("segkernel: error: ")
        assert message in errors[0]
    # A deleted reward model, in a directory that is there, is not looked up on the hub, and the data are not read.
    unread = ("asr-dpo", "--preferences", str(empty), "--model", lm, "--output_dir", f"{tmp_path}/out-reward")
    message = refused(capsys, *unread, "--reward_model", f"{tmp_path}/directory/rm")
    assert message == f"segkernel: error: reward_model: there is no directory '{tmp_path}/directory/rm'\n"
    # A run that is refused before a trainer is made leaves nothing behind.
    assert len(list(tmp_path.glob("out-*"))) == 3
