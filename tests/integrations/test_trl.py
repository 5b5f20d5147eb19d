"""TRL's own trainers, patched and not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segkernel import integrations

pytestmark = pytest.mark.usefixtures("trl")

HEAD = "trl.trainer.utils._ChunkedLogProbFunction"


@pytest.fixture(scope="module")
def run(trl: None) -> Any:
    from tests.integrations.trl_runs import run

    return run


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_trl_trainer_gives_the_same_losses_metrics_and_gradients_when_patched(
    run: Any, kind: str, tmp_path: Path
) -> None:
    theirs, their_gradients = run(kind, tmp_path / "theirs")
    with integrations.patched("trl") as report:
        assert HEAD in report.swapped
        ours, our_gradients = run(kind, tmp_path / "ours")
        status = {row.target: row for row in integrations.status().rows}
    assert status[HEAD].served >= 2
    assert status[HEAD].passed_back == {}
    assert len(ours) == len(theirs) == len(our_gradients) == 2
    for mine, expected in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    timed = {"train_runtime", "step_time", "epoch"}
    for log, expected_log in zip(ours, theirs, strict=True):
        assert log.keys() == expected_log.keys()
        for name in log.keys() - timed:
            assert log[name] == pytest.approx(expected_log[name], rel=2e-4, abs=2e-6), name
