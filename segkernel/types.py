"""What `segment` returns, shared by the operator and its reference."""

from typing import NamedTuple

from torch import Tensor


class Segments(NamedTuple):
    """Segments of every row.

    `S = max_segments or T`. Segments past `S` are left out of the `[B, S]` fields; `counts` counts them.
    Packed: segment `k` of row `b` sits at `cu_seqlens[b] + k`.

    | field | padded | packed | meaning |
    | --- | --- | --- | --- |
    | `ids` | int32 `[B, T]` | int32 `[N]` | 0-based index of the token's segment in its row; -1 at masked |
    | `counts` | int32 `[B]` | int32 `[B]` | number of segments in the row |
    | `lengths` | int32 `[B, S]` | int32 `[N]` | valid tokens per segment, 0 past `counts` |
    | `rewards` | float32 `[B, S]` | float32 `[N]` | reduced reward per segment, 0 past `counts` |
    | `signs` | int8 `[B, S]` | int8 `[N]` | its tokens' state (`delta`), else `sign(reward - baseline)` |
    | `mask` | bool `[B, T]` | bool `[N]` | loss mask, or `None` when no `sequence_sign` was given |
    """

    ids: Tensor
    counts: Tensor
    lengths: Tensor
    rewards: Tensor
    signs: Tensor
    mask: Tensor | None
