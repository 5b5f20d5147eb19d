"""Every instruction set that the machine has gives what its best one gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_identical, assert_near
from instruction_sets import all_outputs


@pytest.fixture(scope="module")
def best() -> dict:
    return all_outputs()


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_agrees_with_the_best_one(isa, best, tmp_path):
    script = Path(__file__).with_name("instruction_sets.py")
    subprocess.run(
        [sys.executable, script, tmp_path / "outputs.pt"], env={**os.environ, "SEGKERNEL_ISA": isa}, check=True
    )
    outputs = torch.load(tmp_path / "outputs.pt", weights_only=False)
    if outputs["isa"] != isa:
        pytest.skip(f"this machine's best instruction set is {outputs['isa']}")

    assert outputs["scan"].keys() == best["scan"].keys()
    for case, out in outputs["scan"].items():
        exact = not case.startswith(("gae", "redistribute"))  # they may contract a product and a sum
        assert_near(out, best["scan"][case], rtol=0 if exact else 1e-6, atol=0 if exact else 2e-5)
    assert outputs["logprobs"].keys() == best["logprobs"].keys()
    for case, (log_probs, entropy, gradient) in outputs["logprobs"].items():
        wanted = best["logprobs"][case]
        assert_near((log_probs, entropy), wanted[:2], rtol=0, atol=2e-5)
        if gradient.dtype == torch.float64:  # not vectorised by hand
            assert_identical((log_probs, entropy, gradient), wanted)
        assert_near(gradient, wanted[2], rtol=2 * torch.finfo(gradient.dtype).eps, atol=2e-6)
