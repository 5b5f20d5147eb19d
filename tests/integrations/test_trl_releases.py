"""Trainers of older releases of TRL, patched and not.

`make peers` installs each release into a folder of its own, with the transformers it needs. It has a process of its own
(trl_runs.py), whose path begins with that folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from tests.integrations.peers import ROOT, folder_of, python
from tests.integrations.trl_steps import assert_same_steps

pytestmark = pytest.mark.packages

# Functions that each trainer calls in a run, of those that patch("trl") replaces.
SELECTIVE, ENTROPY, BOTH = "selective_log_softmax", "entropy_from_logits", "selective_log_softmax_and_entropy"
HEAD = "_ChunkedLogProbFunction"
CALLS: dict[str, dict[str, set[str]]] = {
    "trl-0.24": {
        "DPO": {SELECTIVE},
        "SFT": {ENTROPY},
        "KTO": {SELECTIVE},
        "GRPO": {SELECTIVE, ENTROPY},
        "RLOO": {SELECTIVE, ENTROPY},
    },
    "trl-1.14": {
        "DPO": {SELECTIVE, BOTH},
        "SFT": set(),
        "KTO": {SELECTIVE, BOTH},
        "GRPO": {BOTH},
        "RLOO": {SELECTIVE, BOTH},
        "head": {HEAD},  # of asynchronous GRPO
    },
}
TARGETS = {"trl-0.24": {SELECTIVE, ENTROPY}, "trl-1.14": {SELECTIVE, ENTROPY, BOTH, HEAD}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Result of `trl_runs.main` on a release, which runs once."""

    @cache
    def run(name: str) -> Any:
        folder = folder_of(name)
        scratch = tmp_path_factory.mktemp("release")
        python("-m", "tests.integrations.trl_runs", scratch, path=(folder, ROOT))
        return torch.load(scratch / "result.pt", weights_only=True)

    return run


@pytest.mark.parametrize("name", CALLS)
def test_trl_functions_of_older_releases_agree_and_come_back(run: Callable[[str], Any], name: str) -> None:
    result = run(name)
    assert result["version"].startswith(name.removeprefix("trl-") + ".")
    assert result["rows"] == dict.fromkeys(TARGETS[name], (True, "verified"))
    assert result["restored"]


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in CALLS.items() for kind in kinds])
def test_trl_trainer_of_older_releases_gives_the_same_losses_metrics_and_gradients_when_patched(
    run: Callable[[str], Any], name: str, kind: str
) -> None:
    result = run(name)
    theirs, ours = result["theirs"][kind], result["ours"][kind]
    assert {target for target, (served, passed_back) in result["calls"][kind].items() if served} == CALLS[name][kind]
    assert not any(passed_back for served, passed_back in result["calls"][kind].values())
    assert len(ours[0]) == len(ours[1]) == (1 if kind == "head" else 2)
    assert_same_steps(ours, theirs)
