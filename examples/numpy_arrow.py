"""Segments of ragged token rewards in an Arrow column, through NumPy: no padding, no copy, no torch.

Run: `python -m examples.numpy_arrow`. Needs pyarrow, which comes with `datasets`.
"""

from __future__ import annotations

import pyarrow as pa

import segkernel.numpy as sk


def add_segments(table: pa.Table, *, delta: float) -> pa.Table:
    """Add the columns `segment_ids` (per token), `segment_signs` (per segment) and `loss_mask` (per token).

    `table` has the columns `token_rewards` (lists of float32) and `verdict` (+1 or -1: the sign of each response).
    """
    rewards = table["token_rewards"].combine_chunks()
    offsets = rewards.offsets.to_numpy()  # [B + 1]; views of Arrow's own memory
    values = rewards.values.to_numpy()  # [N]
    segments = sk.segment(
        values, delta=delta, sequence_sign=table["verdict"].to_numpy().astype("float64"), offsets=offsets
    )
    # The segments of row b start at the row's first token, so its signs are a slice of the packed array.
    signs = [segments.signs[first : first + count] for first, count in zip(offsets[:-1], segments.counts, strict=True)]
    return (
        table.append_column("segment_ids", pa.ListArray.from_arrays(rewards.offsets, pa.array(segments.ids)))
        .append_column("segment_signs", pa.array([row.tolist() for row in signs], pa.list_(pa.int8())))
        .append_column("loss_mask", pa.ListArray.from_arrays(rewards.offsets, pa.array(segments.mask)))
    )


def main() -> pa.Table:
    table = pa.table(
        {
            "token_rewards": pa.array([[0.9, 0.2, -0.8, -0.1], [], [-0.7, 0.6]], pa.list_(pa.float32())),
            "verdict": [1, 1, -1],
        }
    )
    table = add_segments(table, delta=0.5)
    for row in table.to_pylist():
        print(row["token_rewards"], "ids", row["segment_ids"], "signs", row["segment_signs"], "mask", row["loss_mask"])
    return table


if __name__ == "__main__":
    main()
