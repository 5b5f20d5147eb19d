"""Output directories: one run each, its record, and the checkpoint to resume from."""

import json
import os
from pathlib import Path

from segkernel.training.data.containers import digest

RECORD = "run.json"


def check_run_directory(output_dir: str | Path, *, resuming: bool) -> None:
    """Refuse a directory that already holds a run, unless that run is to be resumed.

    Raises:
        FileExistsError: there are checkpoints or a saved model in `output_dir`.
    """
    directory = Path(output_dir)
    if resuming or not directory.is_dir():
        return
    for pattern in ("checkpoint-*", "*.safetensors", "pytorch_model*.bin", "trainer_state.json"):
        for found in sorted(directory.glob(pattern)):
            raise FileExistsError(
                f"output_dir: {str(directory)!r} already holds a run ({found.name}). Continue it with "
                "--resume_from_checkpoint last, or give another --output_dir"
            )


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | None) -> str | None:
    """Checkpoint directory of `--resume_from_checkpoint`: a path, or `last` for the newest of this run.

    A checkpoint that is not complete, because the run was killed while writing it, is ignored.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint.lower() in ("last", "true"):
        complete = [path.name for path in Path(output_dir).glob("checkpoint-*") if _is_complete(path)]
        steps = [int(step) for name in complete if (step := name.removeprefix("checkpoint-")).isdigit()]
        if not steps:
            raise FileNotFoundError(f"resume_from_checkpoint: there is no checkpoint in {str(output_dir)!r}")
        return str(Path(output_dir) / f"checkpoint-{max(steps)}")
    if not _is_complete(Path(resume_from_checkpoint)):
        raise FileNotFoundError(f"resume_from_checkpoint: {resume_from_checkpoint!r} is not a checkpoint of a trainer")
    return resume_from_checkpoint


def _is_complete(checkpoint: Path) -> bool:
    """Whether the file that the Trainer writes last is there."""
    state = checkpoint / "trainer_state.json"
    return state.is_file() and state.stat().st_size > 0


def run_record(method: str, data_file: str | Path, model: str | None) -> dict[str, str | None]:
    """Identity of a run: resuming it with another method, data file or initial model would mix two runs."""
    return {"method": method, "data": str(data_file), "data_sha256": digest(data_file), "model": model}


def write_record(output_dir: str | Path, record: dict[str, str | None]) -> None:
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    # In one move: another process of a distributed run may be reading it.
    partial = Path(output_dir) / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, Path(output_dir) / RECORD)


def check_record(output_dir: str | Path, record: dict[str, str | None]) -> None:
    """Refuse to resume a run that was another method, read other data or started from another model.

    Raises:
        ValueError: the record in `output_dir` differs from `record`.
    """
    path = Path(output_dir) / RECORD
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in record.keys() - {"data"}:
        if before.get(name) != record[name]:
            raise ValueError(
                f"resume_from_checkpoint: the run in {str(output_dir)!r} had {name}={before.get(name)!r}, "
                f"this one has {record[name]!r}"
            )
