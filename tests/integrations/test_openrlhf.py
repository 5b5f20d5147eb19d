"""OpenRLHF's functions, patched and not, in a process with stand-ins for the packages that need a GPU."""

from __future__ import annotations

import pytest
import torch

from segkernel.integrations.openrlhf.swaps import log_probs_from_logits
from tests.integrations.peers import folder_of, python

CODE = """
import importlib, sys, warnings
from tests.integrations.call_peer import STAND_INS, StandInFinder
sys.path.append(sys.argv[1])
sys.meta_path.append(StandInFinder(STAND_INS["openrlhf"]))
import torch
from segkernel import integrations

torch.manual_seed(0)
utils = importlib.import_module("openrlhf.models.utils")
actor = importlib.import_module("openrlhf.models.actor")
maker = importlib.import_module("openrlhf.trainer.ppo_utils.experience_maker").RemoteExperienceMaker
before = {
    "log_probs": utils.log_probs_from_logits, "entropy": utils.compute_entropy,
    "advantages": vars(maker)["get_advantages_and_returns"], "returns": vars(maker)["get_cumulative_returns"],
}
labels = torch.randint(9, (2, 5))
rewards, values = torch.randn(2, 2, 5)
masks = {"holes": torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 1, 0]]), "none": None}

def results():
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.linspace(-3, 3, 90).view(2, 5, 9).to(dtype)
        found += [actor.log_probs_from_logits(logits, labels, 0.5), logits]
    leaf = torch.linspace(-2, 2, 90).view(2, 5, 9).requires_grad_()
    found += [actor.log_probs_from_logits(leaf, labels)]
    found += torch.autograd.grad(found[-1].square().sum(), leaf)
    for mask in masks.values():
        found += maker.get_advantages_and_returns(None, values, rewards, mask, 0.9, 0.8)
        found += [maker.get_cumulative_returns(None, rewards, mask, 0.9)]
    return found

expected = results()
logits = torch.linspace(-2, 2, 90).view(2, 5, 9)
expected_entropy = utils.compute_entropy.__wrapped__(logits)
report = integrations.patch("openrlhf")
assert len(report.swapped) == 4, report
assert actor.log_probs_from_logits is utils.log_probs_from_logits is not before["log_probs"]
for index, (actual, wanted) in enumerate(zip(results(), expected, strict=True)):
    tolerance = 1e-2 if actual.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f"{index}: {text}")
torch.testing.assert_close(actor.compute_entropy(logits), expected_entropy, rtol=1e-5, atol=1e-5)
assert [row.served for row in integrations.status().rows] == [3, 1, 2, 2], integrations.status()
assert not any(row.passed_back for row in integrations.status().rows)
integrations.unpatch()
assert before == {
    "log_probs": actor.log_probs_from_logits, "entropy": actor.compute_entropy,
    "advantages": vars(maker)["get_advantages_and_returns"], "returns": vars(maker)["get_cumulative_returns"],
}
"""


def test_openrlhf_log_probs_divide_the_logits_of_the_caller_in_any_layout() -> None:
    logits = torch.tensor([[0.0, 2.0], [4.0, 6.0]]).T  # the vocabulary has the stride 2
    logprobs = log_probs_from_logits(logits, torch.tensor([1, 0]), 2.0)
    assert logits.tolist() == [[0.0, 2.0], [1.0, 3.0]]
    assert logprobs.tolist() == pytest.approx([-0.126928, -2.126928], abs=1e-6)


@pytest.mark.packages
def test_openrlhf_functions_agree_in_values_gradients_and_side_effects_when_patched() -> None:
    python("-c", CODE, folder_of("openrlhf"))
