"""One run per output directory: its lock, its checkpoints, and what ends or damages it."""

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from segkernel import _cli as cli
from segkernel.training import DPOConfig, DPOTrainer
from segkernel.training.trainer.base import SegkernelTrainer
from segkernel.training.trainer.checkpoints import delete_old_checkpoints, find_checkpoint, problem_of, write_manifest
from segkernel.training.trainer.run_directory import check_record, check_run_directory, run_record
from segkernel.training.trainer.run_lock import run_lock
from tests.training.processes import environments, start_command
from tests.training.run_faults import exit_status, limit_files, pause_at_step, wait_until
from tests.training.trainer_helpers import (
    QUICK,
    assert_same_bits,
    pairs,
    tiny_lm,
    tiny_tokenizer,
    weights,
    write_files,
    write_jsonl,
)

OPTIONS = (
    *("--use_cpu", "--disable_tqdm=True", "--logging_steps=1", "--per_device_train_batch_size=4"),
    # 5 steps end in the middle of the second epoch.
    *("--seed=7", "--learning_rate=1e-3", "--max_steps=5", "--save_strategy=steps", "--save_steps=2"),
    "--eval_strategy=no",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_files(tmp_path_factory.mktemp("files"))


def command(files: dict[str, str], output_dir: Path, *options: str) -> list[str]:
    data = ("--preferences", files["preferences"], "--model", files["lm"], "--output_dir", str(output_dir))
    return ["train", "dpo", *data, *OPTIONS, *options]


@pytest.fixture(scope="module")
def whole(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished run of 5 steps, with the checkpoints 2, 4 and 5. No test changes it."""
    output_dir = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(command(files, output_dir)) == 0
    return output_dir


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """Copy of that run as a kill leaves it, after its last checkpoint and before the model is saved."""
    shutil.copytree(whole, tmp_path / "cut")
    for path in (tmp_path / "cut").iterdir():
        if path.is_file() and path.name != "run.json":
            path.unlink()
    return tmp_path / "cut"


def resume(files: dict[str, str], output_dir: Path, *options: str, checkpoint: str = "last") -> int:
    return cli.main(command(files, output_dir, "--resume_from_checkpoint", checkpoint, *options))


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    printed = capsys.readouterr().err
    assert printed.startswith("segkernel: error: ")
    assert printed.count("\n") == 1
    return printed.removeprefix("segkernel: error: ").strip()


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def assert_same_model(left: Path, right: Path) -> None:
    assert_same_bits(*(load_file(path / "model.safetensors") for path in (left, right)))


# --- resuming --------------------------------------------------------------------------------------------------------


def test_finished_run_resumed_changes_no_file(
    files: dict[str, str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(whole)
    capsys.readouterr()
    for checkpoint in ("last", str(whole / "checkpoint-5")):
        assert resume(files, whole, checkpoint=checkpoint) == 0
        finished = f"The run in {whole} is finished; nothing is trained and no file is changed.\n"
        assert capsys.readouterr().out == finished
    assert contents(whole) == before
    # In Python, its weights are loaded.
    tokenizer = tiny_tokenizer()
    settings = {**QUICK, "max_steps": 5, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    args = DPOConfig(output_dir=str(whole), **settings)
    trainer = DPOTrainer(tiny_lm(tokenizer, seed=3), args, pairs(), processing_class=tokenizer)
    assert trainer.train(resume_from_checkpoint=True).global_step == 5
    saved = load_file(whole / "model.safetensors")
    assert_same_bits({name: value for name, value in weights(trainer).items() if name in saved}, saved)
    assert contents(whole) == before


def test_damaged_last_checkpoint_falls_back_to_the_one_before(
    files: dict[str, str], whole: Path, cut: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cut / "checkpoint-5" / "optimizer.pt").unlink()
    truncate(cut / "checkpoint-4" / "model.safetensors", 100)
    with caplog.at_level(logging.WARNING):
        assert resume(files, cut) == 0
    assert "checkpoint-5 is skipped: optimizer.pt is missing; resuming from checkpoint-2" in caplog.text
    assert "checkpoint-4 is skipped: model.safetensors is damaged: it has 100 bytes, expected " in caplog.text
    assert_same_model(cut, whole)
    assert problem_of(cut / "checkpoint-5") is None
    history, expected = (json.loads((path / "trainer_state.json").read_text())["log_history"] for path in (cut, whole))
    assert [log["loss"] for log in history[:5]] == [log["loss"] for log in expected[:5]]


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "deleted"])
def test_problem_of_a_checkpoint_names_the_damaged_file(cut: Path, name: str, damage: str) -> None:
    checkpoint = cut / "checkpoint-5"
    assert problem_of(checkpoint) is None
    path, size = checkpoint / name, (checkpoint / name).stat().st_size
    if damage == "truncated":
        truncate(path, size - 1)
        assert problem_of(checkpoint) == f"{name} is damaged: it has {size - 1} bytes, expected {size}"
    elif damage == "overwritten":
        flip_a_byte(path)
        assert problem_of(checkpoint) == f"{name} is damaged: its content has changed"
    else:
        path.unlink()
        assert problem_of(checkpoint) == f"{name} is missing"
    assert find_checkpoint(cut, True) == str(cut / "checkpoint-4")


def test_damaged_records_and_checkpoints_are_named(
    files: dict[str, str], cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(cut / "checkpoint-5" / "manifest.json", 10)
    assert resume(files, cut, checkpoint=str(cut / "checkpoint-5")) == 2
    message = error_of(capsys)
    assert (
        "checkpoint-5' cannot be resumed: manifest.json is damaged. `--resume_from_checkpoint last` resumes" in message
    )
    for step in (2, 4):
        (cut / f"checkpoint-{step}" / "manifest.json").unlink()
    assert resume(files, cut) == 2
    message = error_of(capsys)
    assert (
        "is complete (checkpoint-5 is skipped: manifest.json is damaged; checkpoint-4 is skipped: it was not" in message
    )
    write_manifest(cut / "checkpoint-4", options={})
    (cut / "run.json").write_text('{"method": ')
    assert resume(files, cut) == 2
    assert error_of(capsys) == f"'{cut / 'run.json'}' is damaged: it is not JSON"


def test_resume_refuses_changes_that_make_another_run(
    files: dict[str, str], cut: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cases = {
        "--per_device_train_batch_size=2": "rows_per_step=4, not 2",
        "--gradient_accumulation_steps=3": "rows_per_step=4, not 12",
        "--learning_rate=1e-4": "learning_rate=0.001, not 0.0001",
        "--lr_scheduler_type=cosine": "lr_scheduler_type='linear', not 'cosine'",
        "--beta=0.5": "beta=0.1, not 0.5",
        "--seed=8": "seed=7, not 8",
        "--max_length=32": "max_length=128, not 32",
        "--separator=x": "separator='', this one has 'x'",
        "--eval_fraction=0.5": "eval_fraction=0.1, this one has 0.5",
        f"--model={files['rm']}": f"model='{files['lm']}', this one has '{files['rm']}'",
    }
    before = contents(cut)
    for option, message in cases.items():
        assert resume(files, cut, option) == 2, option
        assert message in error_of(capsys)
    changed = write_jsonl(tmp_path / "changed.jsonl", pairs()[:-1])
    assert resume(files, cut, f"--preferences={changed}") == 2
    assert "data_sha256=" in error_of(capsys)
    arguments = command(files, cut, "--resume_from_checkpoint=last")
    assert cli.main(["train", "reward", *arguments[2:]]) == 2
    assert "method='dpo', this one has 'reward'" in error_of(capsys)
    # Neither does a checkpoint of another directory allow a second run in this one.
    (cut / "checkpoint-5").rename(tmp_path / "checkpoint-5")
    before = {name: content for name, content in before.items() if not name.startswith("checkpoint-5")}
    shutil.copy(cut / "run.json", tmp_path)
    assert resume(files, cut, checkpoint=str(tmp_path / "checkpoint-5")) == 2
    assert "already holds a run (checkpoint-2). Continue it with --resume_from_checkpoint last" in error_of(capsys)
    assert contents(cut) == before


def test_resume_reports_another_length_and_another_split_of_the_batch(
    files: dict[str, str], cut: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = ("--per_device_train_batch_size=2", "--gradient_accumulation_steps=2")
    with caplog.at_level(logging.WARNING):
        assert resume(files, cut, *split, "--max_steps=6", "--logging_steps=3", "--eval_strategy=steps") == 0
    place = cut / "checkpoint-5"
    reported = [record.getMessage() for record in caplog.records if record.getMessage().startswith("resumed with")]
    assert sorted(reported) == [
        f"resumed with gradient_accumulation_steps=2; until {place} it was 1",
        f"resumed with max_steps=6; until {place} it was 5",
        f"resumed with per_device_train_batch_size=2; until {place} it was 4",
    ]
    assert json.loads((cut / "trainer_state.json").read_text())["global_step"] == 6


# --- output directories ----------------------------------------------------------------------------------------------


def test_run_directory_holds_one_run(tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match="is not a checkpoint of a trainer"):
        find_checkpoint(tmp_path, str(tmp_path))
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        write_manifest(tmp_path / f"checkpoint-{step}", save_only_model=step == 9)
    # A run that was killed while it wrote a checkpoint.
    (tmp_path / "checkpoint-11" / "manifest.json").unlink()
    assert find_checkpoint(tmp_path, "last") == str(tmp_path / "checkpoint-10")
    assert find_checkpoint(tmp_path, str(tmp_path / "checkpoint-10")) == str(tmp_path / "checkpoint-10")
    with pytest.raises(ValueError, match="was saved with --save_only_model, without the state of the optimizer"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-9"))
    # A directory without a record cannot be compared, and is not refused.
    check_record(tmp_path / "none", run_record("dpo", tmp_path / "run.json", None))


def test_old_checkpoints_are_deleted_except_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    delete_old_checkpoints(tmp_path / "checkpoint-10", None, None)
    assert len(list(tmp_path.iterdir())) == 5
    delete_old_checkpoints(tmp_path / "checkpoint-10", 3, str(tmp_path / "checkpoint-2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2", "checkpoint-8"]
    delete_old_checkpoints(tmp_path / "checkpoint-10", 1, str(tmp_path / "checkpoint-2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


def test_locked_output_directory_refuses_a_second_run(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with run_lock(out), run_lock(out):
        assert (out / ".lock").read_text() == f"{os.getpid()}\n"
        with (out / ".lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not out.exists()
    out.mkdir()
    (out / ".lock").write_text("123\n")
    with (out / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cli.main(command(files, out)) == 2
    message = f"output_dir: '{out}' is in use by another run (process 123). Wait until it ends, or give another"
    assert error_of(capsys).startswith(message)
    # The lock of a process that has died.
    with run_lock(out):
        pass
    assert not (out / ".lock").exists()


# --- faults ----------------------------------------------------------------------------------------------------------


def test_signals_save_a_checkpoint_and_end_the_run(
    files: dict[str, str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        out, log = tmp_path / number.name, tmp_path / f"{number.name}.log"
        setup = partial(pause_at_step, 3, tmp_path / f"{number.name}.paused")
        runs[number] = (out, log, start_command(command(files, out), log, setup=setup))
    for number, (out, _, process) in runs.items():
        wait_until((tmp_path / f"{number.name}.paused").exists, process)
        # A second run into the directory, which has no final model yet.
        assert cli.main(command(files, out)) == 2
        assert f"is in use by another run (process {process.pid})" in error_of(capsys)
        os.kill(process.pid, number)
    statuses = {number: exit_status(process) for number, (_, _, process) in runs.items()}
    assert statuses == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}
    for number, (out, log, _) in runs.items():
        step = 2 if number == signal.SIGKILL else 3
        saved = [path.name for path in sorted(out.glob("checkpoint-*"))]
        assert saved == ["checkpoint-2", "checkpoint-3"][: step - 1]
        lines = log.read_text().splitlines()
        if number != signal.SIGKILL:
            assert lines[-2] == f"stopped by {number.name} after step 3, saved as checkpoint-3 in {out}"
            assert lines[-1] == (
                "segkernel: stopped; add `--resume_from_checkpoint last` to the same command to resume from "
                f"{out / 'checkpoint-3'}"
            )
            assert not (out / ".lock").exists()
        assert "Traceback" not in log.read_text()
        assert resume(files, out) == 0
        assert_same_model(out, whole)


def test_stop_saves_once_and_keeps_evaluations_at_the_ends_of_epochs(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two epochs of 3 steps.
    epochs = ("--max_steps=-1", "--num_train_epochs=2", "--save_strategy=epoch", "--eval_strategy=epoch")
    original, stop_at = SegkernelTrainer.training_step, {"step": 0}

    def training_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step + 1 == stop_at["step"]:
            trainer.stop_request.received = signal.SIGTERM
        return original(trainer, *args, **kwargs)

    monkeypatch.setattr(SegkernelTrainer, "training_step", training_step)
    finished = {}
    for step, saved in ((0, [3, 6]), (3, [3]), (4, [3, 4])):
        out, stop_at["step"] = tmp_path / str(step), step
        assert cli.main(command(files, out, *epochs)) == (143 if step else 0)
        assert sorted(int(path.name.removeprefix("checkpoint-")) for path in out.glob("checkpoint-*")) == saved
        stop_at["step"] = 0
        if step:
            assert resume(files, out, *epochs) == 0
            assert_same_model(out, tmp_path / "0")
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        finished[step] = [(log["step"], log["eval_loss"]) for log in history if "eval_loss" in log]
    assert [step for step, _ in finished[0]] == [3, 6]
    assert finished[0] == finished[3] == finished[4]


def test_signal_of_one_process_ends_all_processes_of_a_run(files: dict[str, str], tmp_path: Path) -> None:
    out, paused = tmp_path / "out", tmp_path / "paused"
    setups = (None, partial(pause_at_step, 3, paused))
    arguments = command(files, out, "--per_device_train_batch_size=2")
    processes = [
        start_command(arguments, tmp_path / f"log-{rank}", environment=environment, setup=setup)
        for rank, (environment, setup) in enumerate(zip(environments(2), setups, strict=True))
    ]
    wait_until(paused.exists, processes[1])
    os.kill(processes[1].pid, signal.SIGTERM)
    assert [exit_status(process) for process in processes] == [143, 143]
    assert problem_of(out / "checkpoint-3") is None
    assert (out / "checkpoint-3" / "rng_state_1.pth").is_file()
    assert (tmp_path / "log-0").read_text().count("segkernel: stopped; add `--resume_from_checkpoint last`") == 1
    assert "segkernel: stopped" not in (tmp_path / "log-1").read_text()


def test_second_signal_ends_the_run_at_once(files: dict[str, str], tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    setup = partial(pause_at_step, 3, tmp_path / "paused", hold=True)
    process = start_command(command(files, out), log, setup=setup)
    wait_until((tmp_path / "paused").exists, process)
    os.kill(process.pid, signal.SIGTERM)
    wait_until(lambda: "the same signal again ends at once" in log.read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    assert exit_status(process) == -signal.SIGTERM
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """File system of 1 MB: room for one checkpoint (0.4 MB), not for two and the next one."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount file systems; the limit on the size of files is tested")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_full_and_read_only_disks_are_one_line_and_the_run_resumes(
    files: dict[str, str], whole: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = small_disk / "out"
    capsys.readouterr()
    assert cli.main(command(files, out)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert not list(out.glob(".*"))
    saved = sorted(out.glob("checkpoint-*"))
    assert saved
    assert all(problem_of(checkpoint) is None for checkpoint in saved)
    assert message.startswith("segkernel: error: ")
    assert f"{out}/checkpoint-" in message
    assert f"could not be written: No space left on device. {saved[-1]} is complete; add `--resume_" in message
    # With room for the rest, it ends as if nothing had happened.
    shutil.copytree(out, tmp_path / "more")
    assert resume(files, tmp_path / "more") == 0
    assert_same_model(tmp_path / "more", whole)
    capsys.readouterr()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert resume(files, out) == 2
    assert error_of(capsys) == f"output_dir: the directory '{out}' is not writable"


def test_limit_on_the_size_of_files_is_one_line(files: dict[str, str], tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    assert exit_status(start_command(command(files, out), log, setup=partial(limit_files, 20_000))) == 2
    message = log.read_text().splitlines()[-1]
    assert message.startswith(f"segkernel: error: the weights in {out}/checkpoint-2 could not be written: ")
    assert message.endswith("File too large. There is no complete checkpoint yet")
    assert not list(out.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("basic_ios::clear: iostream error"), "the disk is full, or a limit on the size of files is"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "the disk is full, or a"),
    ],
)
def test_failed_save_keeps_the_checkpoint_before(
    files: dict[str, str],
    cut: Path,
    error: Exception,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(cut / "checkpoint-5")

    def fail(trainer: Any, output_dir: str) -> None:
        (Path(output_dir) / "optimizer.pt").write_bytes(b"half")
        raise error

    monkeypatch.setattr(SegkernelTrainer, "_save_optimizer_and_scheduler", fail)
    assert resume(files, cut, "--save_total_limit=1") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{cut}/checkpoint-5/optimizer.pt could not be written: {reason}" in last
    assert f"{cut}/checkpoint-4 is complete; add `--resume_from_checkpoint last` to the same command" in last
    assert sorted(path.name for path in cut.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_error_of_the_program_is_shown_with_the_last_checkpoint(
    files: dict[str, str], cut: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(cut / "checkpoint-5")

    assert resume(files, cut, "--optim_args=x") == 2
    assert "optim_args=None, not 'x'" in error_of(capsys)

    def fail(*_: Any) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(SegkernelTrainer, "training_step", fail)
    with pytest.raises(ValueError, match="a mistake of ours"):
        resume(files, cut)
    expected = (
        "segkernel: the run failed; add `--resume_from_checkpoint last` to the same command to resume from "
        f"{cut / 'checkpoint-4'}"
    )
    assert capsys.readouterr().err.splitlines()[-1] == expected

    # Before the first step, it is a mistake in the options.
    assert cli.main(command(files, cut.parent / "new", "--optim_args=x")) == 2
    message = "segkernel: error: the training could not be set up with these options: not enough values to unpack"
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SegkernelTrainer, "training_step", interrupt)
    assert cli.main(command(files, cut.parent / "new")) == 130
    expected = "segkernel: interrupted; there is no checkpoint yet, so the same command starts anew"
    assert capsys.readouterr().err.splitlines()[-1] == expected
