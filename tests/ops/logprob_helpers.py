"""Logits, labels and tolerances for the tests of log-probabilities."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.helpers import assert_near

VOCABULARIES = (1, 2, 7, 31, 33, 257, 1000, 4099)
# Longer than a chunk of the CPU kernels and than what a CUDA thread block loads at once, in any dtype; odd, so that
# rows are not aligned.
BEYOND_ONE_PART = (20011,)
# Loads of a CUDA thread block, 16 KB, go to the 4 groups of a row's threads in turn.
GROUPS = 4


def chunk(dtype: torch.dtype) -> int:
    """Logits that a CUDA thread block loads at once."""
    return 16384 // dtype.itemsize


OUTPUTS = ("entropy", "sum_squares", "mean_logit", "is_argmax")

TRANSFORMS: tuple[dict[str, float], ...] = (
    {},
    {"temperature": 0.7},
    {"logit_scale": 0.5},
    {"softcap": 4.0},
    {"temperature": 1.3, "logit_scale": 1.7, "softcap": 5.0},
)


def random_logits(*shape: int, dtype: torch.dtype, spread: float = 3.0) -> Tensor:
    return (spread * torch.randn(shape)).to(dtype)


def random_labels(*shape: int, V: int) -> Tensor:
    return torch.randint(0, V, shape)


def accuracy(dtype: torch.dtype) -> dict[str, float]:
    """Outputs of low-precision logits are computed and returned in float32."""
    return {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 0.0, "atol": 2e-5}


def assert_gradient(actual: Tensor, exact: Tensor) -> None:
    """Gradients are computed like the outputs and rounded once, to the dtype of what they belong to."""
    computed = 1e-11 if actual.dtype == torch.float64 else 1e-5
    half_ulp = torch.finfo(actual.dtype).eps / 2
    torch.testing.assert_close(actual.double(), exact.double(), rtol=half_ulp + computed, atol=0.1 * computed)


def assert_layouts_match_float64(
    call: Callable[[Callable[[Tensor], Tensor], Tensor | None], tuple[Tensor, ...]],
    expected: Sequence[Tensor],
    expected_gradient: Tensor,
    logits: Tensor,
    upstream: Sequence[Tensor],
    kept: Tensor,
    lengths: Sequence[int],
) -> None:
    """Compare outputs and gradient of `call(lay_out, cu_seqlens)` on padded and on packed rows with those in float64.

    `lay_out` leaves a tensor `[B, T, ...]` as it is, or packs the first `lengths` tokens of its rows. The gradient to
    `logits` is 0 at tokens that are not `kept`.
    """
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if logits.dtype == torch.float64 else {"rtol": 1e-6, "atol": 2e-5}
    for packed in (False, True):

        def lay_out(values: Tensor, packed: bool = packed) -> Tensor:
            return torch.cat([row[:n] for row, n in zip(values, lengths, strict=True)]) if packed else values

        actual = call(lay_out, torch.tensor([0, *lengths]).cumsum(0) if packed else None)
        for out, wanted in zip(actual, expected, strict=True):
            assert_near(out.double(), wanted, **tolerance)
        (gradient,) = torch.autograd.grad(actual, logits, upstream)
        assert_gradient(gradient, expected_gradient)
        assert not gradient[~kept].any()
