"""Extension module of `segkernel.numpy`: the CPU kernels on C-contiguous arrays, half precision viewed as uint16.

Arguments come in pairs (scalar, array [B] or None). The last arrays of each function are its outputs.
"""

from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]
_Optional = NDArray[Any] | None

def detect_pivots(
    dtype: str,
    rewards: _Array,
    mask: _Optional,
    threshold: float,
    row_threshold: _Optional,
    offsets: _Optional,
    pivots: _Array,
    /,
) -> None: ...
def hysteresis(
    dtype: str,
    rewards: _Array,
    mask: _Optional,
    low: float,
    row_low: _Optional,
    high: float,
    row_high: _Optional,
    initial: int,
    row_initial: _Optional,
    hold: bool,
    offsets: _Optional,
    states: _Array,
    /,
) -> None: ...
def segment(
    dtype: str,
    rewards: _Array,
    mask: _Optional,
    pivot_threshold: float,
    row_pivot_threshold: _Optional,
    baseline: float,
    row_baseline: _Optional,
    use_trigger: bool,
    delta: float,
    row_delta: _Optional,
    hold: bool,
    initial: int,
    row_initial: _Optional,
    reduce: int,
    sequence_sign: float,
    row_sequence_sign: _Optional,
    keep_neutral: bool,
    offsets: _Optional,
    ids: _Array,
    counts: _Array,
    lengths: _Array,
    segment_rewards: _Array,
    signs: _Array,
    loss_mask: _Optional,
    /,
) -> None: ...
def segment_by_entropy(
    dtype: str,
    entropy: _Array,
    mask: _Optional,
    threshold: float,
    row_threshold: _Optional,
    min_length: int,
    offsets: _Optional,
    ids: _Array,
    counts: _Array,
    /,
) -> None: ...
def select_tokens(
    dtype: str,
    values: _Array,
    mask: _Optional,
    by_fraction: bool,
    fraction: float,
    row_fraction: _Optional,
    count: int,
    row_count: _Optional,
    largest: bool,
    whole_batch: bool,
    round_up: bool,
    offsets: _Optional,
    selected: _Array,
    /,
) -> None: ...
def redistribute(
    dtype: str,
    prefix_scores: _Array,
    mask: _Optional,
    initial: float,
    row_initial: _Optional,
    sequence_rewards: _Optional,
    mix: float,
    row_mix: _Optional,
    offsets: _Optional,
    rewards: _Array,
    /,
) -> None: ...
def gae(
    dtype: str,
    rewards: _Array,
    values: _Array,
    mask: _Optional,
    gamma: float,
    row_gamma: _Optional,
    lam: float,
    row_lam: _Optional,
    value_lam: float,
    row_value_lam: _Optional,
    holes_are_steps: bool,
    offsets: _Optional,
    advantages: _Array,
    returns: _Array,
    /,
) -> None: ...
def discounted_sum(
    dtype: str,
    values: _Array,
    mask: _Optional,
    discount: float,
    row_discount: _Optional,
    offsets: _Optional,
    sums: _Array,
    /,
) -> None: ...
def segment_by_mask(mask: _Array, offsets: _Optional, ids: _Array, counts: _Array, /) -> None: ...
