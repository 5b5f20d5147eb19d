import math

import numpy as np
import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, assert_near

NAN = float("nan")
# Published fits, arXiv 2501.02790: Phi-3-mini at an entropy of 1.75, Llama-3.1-8B at 2.0.
PHI3 = {"mean": (0.7668, 0.4705), "std": (0.2569, 2.8339)}
LLAMA3 = {"mean": (0.8345, 0.8798), "std": (0.4780, 3.7358)}


def test_location_normalize_literals():
    # p = e^-1 would need counts of e; at p = 1 the logarithm is 0 and the intercepts stand alone.
    out = segkernel.location_normalize(torch.tensor([[3.0, NAN]]), torch.tensor([1]), mean=(5.0, 1.0), std=(7.0, 4.0))
    assert out.tolist() == [[0.5, 0.0]]
    # p = 1/4, 1/2, 3/4, 1, with log2 in place of the natural logarithm: mean 1 + log2 p, std 4 + log2 p.
    slope = 1 / math.log(2)
    out = segkernel.location_normalize(
        torch.tensor([[1.0, 3.0, 0.0, 5.0]]), torch.tensor([4]), mean=(slope, 1.0), std=(slope, 4.0)
    )
    torch.testing.assert_close(out[0, [0, 1, 3]], torch.tensor([2.0 / 2, 3.0 / 3, 4.0 / 4]))
    assert out.dtype == torch.float32


def test_location_normalize_bounds_the_deviation_by_min_std():
    rewards, counts = torch.tensor([[1.0, 1.0]]), torch.tensor([2])
    # log(1/2) < 0, so the fitted deviation of the first segment is negative.
    out = segkernel.location_normalize(rewards, counts, mean=(0.0, 0.0), std=(10.0, 2.0), min_std=0.25)
    assert out.tolist() == [[4.0, 0.5]]


def test_location_normalize_counts_segments_past_the_last_kept_one():
    rewards = torch.tensor([[1.0, 1.0]])
    few = segkernel.location_normalize(rewards, torch.tensor([8]), mean=(1.0, 0.0), std=(0.0, 1.0))
    torch.testing.assert_close(few, 1 - torch.tensor([[1 / 8, 2 / 8]]).log())


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("fit", [PHI3, LLAMA3])
def test_location_normalize_equals_its_reference(fit, dtype):
    counts = torch.tensor([0, 1, 2, 5, 32, 33, 100])
    rewards = torch.randn(7, 33, dtype=torch.float64).to(dtype)
    rewards[torch.arange(33) >= counts[:, None]] = NAN
    actual = segkernel.location_normalize(rewards, counts, **fit)
    assert_near(actual, reference.location_normalize(rewards, counts, **fit), rtol=1e-5, atol=1e-5)


def test_location_normalize_absent_segments_get_no_gradient():
    rewards = torch.tensor([[2.0, 1.0, NAN]], requires_grad=True)
    segkernel.location_normalize(rewards, torch.tensor([2]), mean=(0.5, 1.0), std=(0.0, 4.0)).sum().backward()
    assert rewards.grad.tolist() == [[0.25, 0.25, 0.0]]


def synthetic_rewards(mean, std) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal rewards whose mean and deviation follow the published lines."""
    B, S = 4000, 40
    counts = torch.randint(1, S + 1, (B,))
    k = torch.arange(S)
    log_p = ((k + 1) / counts[:, None]).clamp(max=1).log()
    rewards = mean[0] * log_p + mean[1] + (std[0] * log_p + std[1]) * torch.randn(B, S)
    return rewards.masked_fill(k >= counts[:, None], NAN), counts


@pytest.mark.parametrize("fit", [PHI3, LLAMA3])
def test_fit_location_normalizer_recovers_the_published_lines(fit):
    mean, std = segkernel.fit_location_normalizer(*synthetic_rewards(**fit))
    np.testing.assert_allclose(mean, fit["mean"], atol=0.1)
    np.testing.assert_allclose(std, fit["std"], atol=0.1)


@pytest.mark.parametrize("fit", [PHI3, LLAMA3])
def test_fit_location_normalizer_is_robust_to_outliers(fit):
    rewards, counts = synthetic_rewards(**fit)
    p = (torch.arange(40) + 1) / counts[:, None]
    # Around the middle of responses the reward model went astray; least squares would be off by several.
    rewards[(p > 0.44) & (p <= 0.56)] += 40
    rewards[(p > 0.24) & (p <= 0.28)] *= 10
    mean, std = segkernel.fit_location_normalizer(rewards, counts)
    np.testing.assert_allclose(mean, fit["mean"], atol=0.25)
    np.testing.assert_allclose(std, fit["std"], atol=0.25)


def test_location_normalize_after_fit_gives_mean_0_and_std_1():
    rewards, counts = synthetic_rewards(**LLAMA3)
    mean, std = segkernel.fit_location_normalizer(rewards, counts)
    present = torch.arange(40) < counts[:, None]
    normalized = segkernel.location_normalize(rewards, counts, mean=mean, std=std)[present]
    assert abs(normalized.mean()) < 0.02
    assert abs(normalized.std() - 1) < 0.02


def test_location_normalize_refuses_wrong_arguments():
    rewards, counts = torch.zeros(2, 3), torch.tensor([2, 3])
    line = {"mean": (0.0, 1.0), "std": (0.0, 1.0)}
    with pytest.raises(TypeError, match=r"counts: expected an? integer tensor, got float32 \[2\]"):
        segkernel.location_normalize(rewards, counts.float(), **line)
    with pytest.raises(ValueError, match=r"counts: expected \[2\], got int64 \[3\]"):
        segkernel.location_normalize(rewards, torch.ones(3, dtype=torch.int64), **line)
    with pytest.raises(ValueError, match=r"segment_rewards: expected \[B, S\], got float32 \[3\]"):
        segkernel.location_normalize(rewards[0], counts, **line)
    with pytest.raises(ValueError, match=r"std: expected a finite slope and intercept, got \(nan, 1.0\)"):
        segkernel.location_normalize(rewards, counts, mean=(0.0, 1.0), std=(NAN, 1.0))
    with pytest.raises(TypeError, match=r"mean: expected a slope and an intercept, got float 0.5"):
        segkernel.location_normalize(rewards, counts, mean=0.5, std=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"min_std: expected a finite number > 0, got 0"):
        segkernel.location_normalize(rewards, counts, **line, min_std=0)
    with pytest.raises(TypeError, match=r"min_std: expected a number > 0, got str '1'"):
        segkernel.location_normalize(rewards, counts, **line, min_std="1")
    with pytest.raises(TypeError, match=r"bins: expected an integer, got float 2.5"):
        segkernel.fit_location_normalizer(rewards, counts, bins=2.5)
    with pytest.raises(ValueError, match=r"segment_rewards: expected finite rewards"):
        segkernel.fit_location_normalizer(rewards + NAN, counts)
    with pytest.raises(ValueError, match=r"segment_rewards: expected at least two rewards.*got 2 rewards at 1 pos"):
        segkernel.fit_location_normalizer(rewards, torch.tensor([1, 1]))
