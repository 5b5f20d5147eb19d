"""Generalized advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import HOLES
from segkernel._library import no_gradient, ops, register_fake


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    gamma: float | Tensor = 1.0,
    lam: float | Tensor = 0.95,
    value_lam: float | Tensor | None = None,
    holes: str = "skip",
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns over the valid tokens of each row.

    `A_t = delta_t + gamma * lam * A_next`, `delta_t = r_t + gamma * V_next - V_t`, where "next" is the next valid
    token of the row. The value after the last valid token is 0. Source: High-dimensional continuous control using GAE,
    arXiv 1506.02438, eq. 16.

    Args:
        rewards, values: one per token, in units of reward, `[B, T]`, or packed `[N]` with `cu_seqlens`; float64,
            float32, bfloat16 or float16. If their dtypes differ, both are promoted.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        gamma, lam: discount and trace decay, scalars or one per row `[B]`.
        value_lam: trace decay of the returns, a scalar or one per row; default: `lam`. VAPO (arXiv 2504.05118, sec.
            4.1) has 1 here and a `lam` per row that depends on the response's length.
        holes: treatment of masked positions between two valid tokens, such as tool output. "skip": they are no steps
            (verl). "decay": each is a step with reward and value 0, so that the trace decays through it (OpenRLHF).
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        `(advantages, returns)`; a return is the advantage under `value_lam` plus the value. float32 (float64 for
        float64 input), the shape of `rewards`; 0 at masked positions. Constants to autograd.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, an unknown `holes`, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]])
        >>> advantages, returns = segkernel.gae(rewards, values, gamma=1.0, lam=1.0)
        >>> returns
        tensor([[1., 1.]])
    """
    rewards, mask, cu_seqlens = _tensors.tokens("rewards", rewards, mask, cu_seqlens)
    _tensors.tensor("values", values)
    if values.shape != rewards.shape:
        raise ValueError(f"values: expected {list(rewards.shape)} like rewards, got {_validate.describe(values)}")
    _tensors.same_device("values", values, "rewards", rewards)
    if values.dtype != rewards.dtype:
        dtype = torch.promote_types(values.dtype, rewards.dtype)
        rewards, values = rewards.to(dtype), values.to(dtype)
    gamma_value, row_gamma = _tensors.per_row("gamma", gamma, rewards, cu_seqlens)
    lam_value, row_lam = _tensors.per_row("lam", lam, rewards, cu_seqlens)
    return_lam, row_return_lam = _tensors.per_row(
        "value_lam", lam if value_lam is None else value_lam, rewards, cu_seqlens
    )
    _validate.one_of("holes", holes, HOLES)
    advantages, returns = ops.gae.default(
        rewards,
        values.contiguous(),
        mask,
        gamma_value,
        row_gamma,
        lam_value,
        row_lam,
        return_lam,
        row_return_lam,
        holes == "decay",
        cu_seqlens,
    )
    return advantages, returns


no_gradient("gae")


@register_fake("gae")
def _(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor | None,
    gamma: float,
    row_gamma: Tensor | None,
    lam: float,
    row_lam: Tensor | None,
    value_lam: float,
    row_value_lam: Tensor | None,
    holes_are_steps: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    dtype = _tensors.compute_dtype(rewards)
    return torch.empty_like(rewards, dtype=dtype), torch.empty_like(rewards, dtype=dtype)
