"""Every instruction set gives the same segments and selections bit for bit, log-probs and divergences to rounding."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import segkernel
from segkernel._library import cpu_isa
from tests.helpers import DTYPES, LENGTHS, assert_identical, random_batch, random_scores

pytestmark = pytest.mark.slow

LOWER = {"avx512": ["avx2", "baseline"], "avx2": ["baseline"], "baseline": []}
REDUCTIONS = ("mean", "sum", "last", "max", "min")
NAN, INF = float("nan"), float("inf")


def odd_rewards(T: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows with long segments, one-token segments, NaN, infinities, and zeros of both signs."""
    rewards = (4 * torch.randn(6, T)).round() / 4
    rewards[0] = (rewards[0] > 1.5).float()  # long segments
    rewards[1] = torch.arange(T) % 2  # a segment for every token
    rewards[2] = -0.5  # one segment, on the threshold
    rewards[3, torch.rand(T) < 0.1] = NAN
    rewards[4, torch.rand(T) < 0.1] = INF
    rewards[4, torch.rand(T) < 0.1] = -INF
    rewards[5] *= 0.0  # zeros of both signs
    return rewards.to(dtype)


def results() -> dict[str, tuple[torch.Tensor, ...]]:
    torch.manual_seed(7)
    found: dict[str, tuple[Any, ...]] = {}
    for dtype in DTYPES:
        for T in LENGTHS:
            batch = random_batch(T)
            rewards = batch.poison(random_scores(*batch.mask.shape, dtype=dtype))
            odd = odd_rewards(T, dtype)
            for hold in (True, False):
                trigger = {"low": -0.5, "high": 0.25, "initial": -1, "hold": hold}
                found[f"hysteresis {dtype} {T} {hold}"] = (segkernel.hysteresis(rewards, batch.mask, **trigger),)
                other_than_1 = (batch.mask.to(torch.uint8) * 130).view(torch.bool)
                found[f"hysteresis, odd mask {dtype} {T} {hold}"] = (
                    segkernel.hysteresis(rewards, other_than_1, **trigger),
                )
                found[f"hysteresis, odd rewards {dtype} {T} {hold}"] = (segkernel.hysteresis(odd, **trigger),)
            for name, values in (("", rewards), (", odd values", odd)):
                mask = None if name else other_than_1
                found[f"select_tokens{name} {dtype} {T}"] = (
                    segkernel.select_tokens(values, mask, fraction=0.3),
                    segkernel.select_tokens(values, mask, count=T, scope="batch", largest=False),
                )
            for reduce in REDUCTIONS:
                cases: dict[str, dict[str, Any]] = {
                    "trigger": {"delta": 0.5, "initial": -1, "sequence_sign": -1, "keep_neutral": True},
                    "dead zone": {"delta": 0.5, "hold": False, "sequence_sign": 1},
                    "pivots": {"pivot_threshold": 0.75, "baseline": 0.25, "sequence_sign": 1},
                    "both": {"pivot_threshold": 0.75, "delta": 0.25, "sequence_sign": 1, "max_segments": 5},
                }
                for name, options in cases.items():
                    options["reduce"] = reduce
                    case = f"{dtype} {T} {reduce} {name}"
                    found[f"segment {case}"] = tuple(segkernel.segment(rewards, batch.mask, **options))
                    found[f"segment, odd rewards {case}"] = tuple(segkernel.segment(odd, **options))
        for V in (1, 2, 7, 15, 16, 17, 33, 257, 4099):
            logits = (3 * torch.randn(5, V)).to(dtype).requires_grad_()
            labels = torch.randint(V, (5,))
            names = ("entropy", "sum_squares", "mean_logit", "is_argmax")
            outputs = segkernel.token_logprobs(logits, labels, outputs=names, softcap=5.0, temperature=0.7)
            (grad,) = torch.autograd.grad([output.sum() for output in outputs[:2]], logits)
            found[f"token_logprobs {dtype} {V}"] = (*(output.detach() for output in outputs), grad)
            others = (logits.detach() + torch.randn(5, V)).to(dtype)
            for kind in ("kl", "reverse_kl", "js", "tv"):
                both = segkernel.token_divergences(logits, others, None, labels, kind=kind, temperature=0.7)
                (grad,) = torch.autograd.grad(both.divergence.sum(), logits)
                found[f"token_divergences {dtype} {V} {kind}"] = (*(output.detach() for output in both), grad)
    return found


def check_places() -> None:
    """A row with padding, holes and other rows gives the same bits as its valid tokens in a batch of one."""
    torch.manual_seed(8)
    for dtype in DTYPES:
        for T in (17, 65, 1500):
            batch = random_batch(T)
            rewards = batch.poison(random_scores(*batch.mask.shape, dtype=dtype))
            for starts in ({"delta": 0.5}, {"pivot_threshold": 0.75}, {"pivot_threshold": 2.0, "delta": 0.5}):
                for reduce in REDUCTIONS:
                    options = {"baseline": 0.25, "sequence_sign": 1.0, "reduce": reduce, **starts}
                    together = segkernel.segment(rewards, batch.mask, **options)
                    for b, valid in enumerate(batch.mask):
                        alone = segkernel.segment(rewards[b : b + 1, valid], **options)
                        n = int(alone.counts)
                        assert together.counts[b] == n
                        assert_identical([together[i][b, valid] for i in (0, 5)], [alone[i][0] for i in (0, 5)])
                        assert_identical([together[i][b, :n] for i in (2, 3, 4)], [alone[i][0, :n] for i in (2, 3, 4)])


def run_under(isa: str, statement: str) -> None:
    """Run `statement`, with `test_isa` imported, in a process that uses `isa`."""
    if isa != cpu_isa() and isa not in LOWER[cpu_isa()]:
        pytest.skip(f"this processor's best is {cpu_isa()}")
    code = f"import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_isa; " + (
        f"assert test_isa.cpu_isa() == {isa!r}; {statement}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "SEGKERNEL_ISA": isa})


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_segment_row_same_bits_with_padding_and_holes(isa: str) -> None:
    run_under(isa, "test_isa.check_places()")


@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_lower_instruction_sets_give_the_same_results(isa: str, tmp_path: Path) -> None:
    if isa == cpu_isa():
        pytest.skip(f"this processor's best is {isa}")
    saved = tmp_path / "results.pt"
    run_under(isa, f"torch.save(test_isa.results(), {str(saved)!r})")
    lower = torch.load(saved)
    here = results()
    assert lower.keys() == here.keys()
    for name, expected in here.items():
        if not name.startswith(("token_logprobs", "token_divergences")):
            assert_identical(lower[name], expected)
            continue
        for actual_part, expected_part in zip(lower[name], expected, strict=True):
            if expected_part.dtype == torch.bool:
                assert_identical(actual_part, expected_part)
                continue
            # A gradient in bf16 or fp16 may round to the neighbor: one unit in the last place.
            rtol = max(torch.finfo(expected_part.dtype).eps, 1e-6 if expected_part.dtype != torch.float64 else 1e-12)
            torch.testing.assert_close(actual_part, expected_part, rtol=rtol, atol=2e-6, equal_nan=True, msg=name)
