"""Files of one seed: models, data and results of finished jobs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.framework.settings import Settings

SettingsType = TypeVar("SettingsType", bound=Settings)


class Workspace(Generic[SettingsType]):
    """Shared files of one seed's jobs, in a folder below `root`. A subclass adds what the task's steps share."""

    def __init__(self, settings: SettingsType, root: Path, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.folder = root / f"seed-{seed}"

    def job_folder(self, job: Job) -> Path:
        """Folder for a job's files, such as a model."""
        return self.folder / job.name

    def result(self, job: Job) -> dict[str, Any] | None:
        """Stored result of a job, or `None`."""
        path = self._result_path(job)
        return json.loads(path.read_text()) if path.is_file() else None

    def finished(self, job: Job) -> dict[str, Any]:
        """Stored result of a finished job.

        Raises:
            FileNotFoundError: the job has no result.
        """
        result = self.result(job)
        if result is None:
            raise FileNotFoundError(f"job: expected a result of {job.name!r} in {self.folder}, got none")
        return result

    def store(self, job: Job, result: dict[str, Any]) -> None:
        write_atomically(self._result_path(job), json.dumps(result, indent=1))

    def clear(self, job: Job) -> None:
        """Delete a job's files, which a killed run may have left incomplete."""
        shutil.rmtree(self.job_folder(job), ignore_errors=True)

    def _result_path(self, job: Job) -> Path:
        return self.folder / "results" / f"{job.name}.json"


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a killed run leaves either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
