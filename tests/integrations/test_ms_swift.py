"""ms-swift's log-probs and entropies with TRL patched and not, in a process with stand-ins for some dependencies."""

from __future__ import annotations

import pytest

from tests.integrations.peers import folder_of, python

CODE = """
import importlib, runpy, sys
from types import SimpleNamespace
from tests.integrations.call_peer import STAND_INS, StandInFinder
sys.path.append(sys.argv[1])
sys.meta_path.append(StandInFinder(STAND_INS["ms_swift"]))
import torch
from segkernel import integrations

mixin = importlib.import_module("swift.rlhf_trainers.rlhf_mixin")
trainers = {name: importlib.import_module(f"swift.rlhf_trainers.{name}_trainer") for name in ("dpo", "kto", "grpo")}
before = [mixin.selective_log_softmax, trainers["grpo"].selective_log_softmax, trainers["grpo"].entropy_from_logits]

def preference(dtype, padding_free):
    template = SimpleNamespace(sequence_parallel_size=1, padding_free=padding_free)
    labels = torch.tensor([[-100, 3, 1, 0], [-100, -100, 2, -100]]).view((1, 8) if padding_free else (2, 4))
    leaf = torch.linspace(-3, 3, 40).view(*labels.shape, 5).requires_grad_()
    found = []
    for trainer in ("DPO", "KTO"):
        method = getattr(trainers[trainer.lower()], f"{trainer}Trainer").get_per_token_logps
        logps, logits, mask = method(SimpleNamespace(template=template), (leaf * 1).to(dtype), labels)
        loss = (logps.float() * torch.arange(1.0, 9).view(labels.shape)).sum()
        found += [logps, logits, mask, *torch.autograd.grad(loss, leaf)]
    return found

def group(dtype, padding_free):
    ids = torch.tensor([[7, 7, 3, 1, 0], [7, 7, 4, 2, 2]]).view((1, 10) if padding_free else (2, 5))
    leaf = torch.linspace(-3, 3, 80).view(*ids.shape, 8).requires_grad_()
    self = SimpleNamespace(temperature=0.7, model_kwarg_keys=(), template=SimpleNamespace(padding_free=padding_free))
    model = lambda **inputs: SimpleNamespace(logits=(leaf * 1).to(dtype))
    method = trainers["grpo"].GRPOTrainer._get_logps_via_local_forward
    logps, entropies = method(self, model, {}, 3, ids, compute_entropy=True)
    loss = (logps.float() * torch.arange(1.0, logps.numel() + 1).view(logps.shape)).sum()
    return [logps, entropies, *torch.autograd.grad(loss, leaf)]

def results():
    return [
        (2e-2 if dtype == torch.bfloat16 else 1e-5, tensor)
        for calls in (preference, group)
        for dtype in (torch.float32, torch.bfloat16)
        for padding_free in (False, True)
        for tensor in calls(dtype, padding_free)
    ]

expected = results()
report = runpy.run_path("examples/ms_swift_plugin.py")["report"]
assert len(report.swapped) == 2, report
after = [mixin.selective_log_softmax, trainers["grpo"].selective_log_softmax, trainers["grpo"].entropy_from_logits]
assert after[0] is after[1] and all(new is not old for new, old in zip(after, before)), report
for index, ((tolerance, actual), (_, wanted)) in enumerate(zip(results(), expected, strict=True)):
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f"{index}: {text}")
assert [row.served for row in integrations.status().rows] == [12, 4], integrations.status()
assert not any(row.passed_back for row in integrations.status().rows), integrations.status()
integrations.unpatch()
assert before == [
    mixin.selective_log_softmax, trainers["grpo"].selective_log_softmax, trainers["grpo"].entropy_from_logits
]
"""


@pytest.mark.packages
def test_ms_swift_trainers_agree_in_values_and_gradients_when_trl_is_patched() -> None:
    """DPO and KTO zero masked log-probs in place afterwards; GRPO divides logits by the temperature in place before."""
    python("-c", CODE, folder_of("ms_swift"), variables={"PYTHONWARNINGS": "ignore"})
