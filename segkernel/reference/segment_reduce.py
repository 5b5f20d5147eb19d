"""Reduction of token values over segments."""

from collections.abc import Callable

from torch import Tensor

from segkernel.reference.rows import compute_dtype, row_bounds


def exact_sum(values: Tensor) -> Tensor:
    """Sum of at least one value. Unlike in `torch.sum`, which adds to +0.0, the sum of negative zeros is -0.0."""
    only_negative_zeros = not values.any() and bool(values.signbit().all())
    return values[0] if only_negative_zeros else values.sum()


def last_maximum(values: Tensor) -> Tensor:
    """Maximum; of equal values (0.0 and -0.0) the last, and the first NaN if there is one."""
    is_nan = values.isnan().nonzero()
    return values[is_nan[0, 0]] if len(is_nan) else values[(values == values.amax()).nonzero()[-1, 0]]


REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": exact_sum,
    "mean": lambda values: exact_sum(values) / len(values),
    "max": last_maximum,
    "min": lambda values: -last_maximum(-values),
    "last": lambda values: values[-1],
    "logsumexp": lambda values: values.logsumexp(0),
}


def segment_reduce(
    values: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = "sum",
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    rows = row_bounds(ids, cu_seqlens)
    v, ids = values.to(compute_dtype(values)).flatten(), ids.flatten()
    reduced = v.new_zeros(len(rows), num_segments)
    for b, (start, end) in enumerate(rows):
        for k in range(num_segments):
            members = v[start:end][ids[start:end] == k]
            if len(members) > 0:
                reduced[b, k] = REDUCE[reduce](members)
    return reduced
