"""Every instruction set gives the same segments bit for bit, and the same log-probabilities to rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import DTYPES, LENGTHS, random_batch, random_scores

import segkernel
from segkernel._library import cpu_isa

LOWER = {"avx512": ["avx2", "baseline"], "avx2": ["baseline"], "baseline": []}


def results() -> dict[str, tuple[torch.Tensor, ...]]:
    torch.manual_seed(7)
    found = {}
    for dtype in DTYPES:
        for T in LENGTHS:
            batch = random_batch(T)
            rewards = batch.poison(random_scores(*batch.mask.shape, dtype=dtype))
            for reduce in ("mean", "sum", "last", "max", "min"):
                for name, options in {
                    "trigger": {"delta": 0.5, "initial": -1, "sequence_sign": -1, "keep_neutral": True},
                    "dead zone": {"delta": 0.5, "hold": False, "sequence_sign": 1},
                    "pivots": {"pivot_threshold": 0.75, "baseline": 0.25, "sequence_sign": 1},
                    "both": {"pivot_threshold": 0.75, "delta": 0.25, "sequence_sign": 1, "max_segments": 5},
                }.items():
                    segments = segkernel.segment(rewards, batch.mask, reduce=reduce, **options)
                    found[f"segment {dtype} {T} {reduce} {name}"] = tuple(segments)
        for V in (1, 2, 7, 15, 16, 17, 33, 257, 4099):
            logits = (3 * torch.randn(5, V)).to(dtype).requires_grad_()
            labels = torch.randint(V, (5,))
            outputs = segkernel.token_logprobs(logits, labels, entropy=True, softcap=5.0, temperature=0.7)
            (grad,) = torch.autograd.grad([output.sum() for output in outputs], logits)
            found[f"token_logprobs {dtype} {V}"] = (*(output.detach() for output in outputs), grad)
    return found


@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_lower_instruction_sets(isa: str, tmp_path: Path) -> None:
    if isa not in LOWER[cpu_isa()]:
        pytest.skip(f"this processor's best is {cpu_isa()}")
    saved = tmp_path / "results.pt"
    code = f"import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_isa; " + (
        f"assert test_isa.cpu_isa() == {isa!r}; torch.save(test_isa.results(), {str(saved)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "SEGKERNEL_ISA": isa})
    lower = torch.load(saved)
    here = results()
    assert lower.keys() == here.keys()
    for name, expected in here.items():
        for actual_part, expected_part in zip(lower[name], expected, strict=True):
            if not expected_part.is_floating_point():
                assert torch.equal(actual_part, expected_part), name
            else:
                # A gradient in bf16 or fp16 may round to the neighbour: one unit in the last place.
                rtol = max(
                    torch.finfo(expected_part.dtype).eps, 1e-6 if expected_part.dtype != torch.float64 else 1e-12
                )
                torch.testing.assert_close(actual_part, expected_part, rtol=rtol, atol=2e-6, msg=name)
