"""LLaMA-Factory's log-probs, patched and not, in a process with a stand-in for the old TRL that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "peers" / "llamafactory"

CODE = """
import importlib, sys, types
from tests.integrations.call_peer import STAND_INS, StandInFinder
sys.path.append(sys.argv[1])
sys.meta_path.append(StandInFinder(STAND_INS["llamafactory"]))
import torch
from segkernel import integrations

utils = importlib.import_module("llamafactory.train.trainer_utils")
trainer = sys.modules["importer"] = types.ModuleType("importer")  # their trainers do not import with transformers 5.24
trainer.get_batch_logps = utils.get_batch_logps
theirs = [utils.get_batch_logps]  # in a list: a global of this module would be swapped as well
labels = torch.tensor([[-100, 3, 1, 0], [-100, -100, 2, -100], [-100] * 4, [4, 3, 2, 1]])

def results(**options):
    logits = torch.linspace(-3, 3, 80).view(4, 4, 5).requires_grad_()
    sums, counts = trainer.get_batch_logps(logits=logits, labels=labels, **options)
    return [sums, counts, *torch.autograd.grad((sums * torch.arange(1, 5)).sum(), logits)]

expected, with_alpha = results(), results(ld_alpha=0.5)
report = integrations.patch("llamafactory", verify=True)
assert report.rows[0].reason == "verified", report
assert trainer.get_batch_logps is utils.get_batch_logps is not theirs[0]
torch.testing.assert_close(results(), expected, rtol=1e-5, atol=1e-6)
torch.testing.assert_close(results(ld_alpha=0.5), with_alpha)
assert integrations.status().rows[0][1:] == (1, {"ld_alpha": 1})
integrations.unpatch()
assert trainer.get_batch_logps is utils.get_batch_logps is theirs[0]
"""


@pytest.mark.packages
def test_llamafactory_logps_agree_in_values_and_gradients_when_patched() -> None:
    if not FOLDER.is_dir():
        pytest.skip("llamafactory is not installed in build/peers: run `make peers`")
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(FOLDER)],
        env={**os.environ, "DISABLE_VERSION_CHECK": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
