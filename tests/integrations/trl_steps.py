"""Steps of a run of a trainer: logs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

Steps = tuple[list[dict[str, Any]], list[dict[str, Tensor]]]


def assert_same_steps(ours: Steps, theirs: Steps, share: float = 0.0) -> None:
    """Assert that losses, metrics and gradients of two runs agree, up to rounding or a share of the value.

    For gradients it is a share of the largest of the same weight.
    """
    for mine, expected in zip(ours[1], theirs[1], strict=True):
        assert mine.keys() == expected.keys()
        for name, gradient in expected.items():
            tolerance = 1e-6 + share * float(gradient.abs().max())
            torch.testing.assert_close(
                mine[name], gradient, rtol=1e-4, atol=tolerance, msg=lambda text, at=name: f"{at}: {text}"
            )
    timed = {"train_runtime", "step_time", "epoch"}
    for log, expected_log in zip(ours[0], theirs[0], strict=True):
        assert log.keys() == expected_log.keys()
        for name in log.keys() - timed:
            assert log[name] == pytest.approx(expected_log[name], rel=2e-4 + share, abs=2e-6), name
