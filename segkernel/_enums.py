"""The integer codes by which the operators know string options. Each is an enum of the same name in csrc/."""

# csrc/ops/segment/segment.h; logsumexp: csrc/ops/segment_reduce/segment_reduce_cpu.cpp
REDUCE = {"sum": 0, "mean": 1, "last": 2, "max": 3, "min": 4, "logsumexp": 5}

# csrc/ops/segment_broadcast/segment_broadcast.h
BROADCAST = {"repeat": 0, "split": 1, "last": 2}

SEGMENT_REDUCTIONS = ("mean", "sum", "last", "max", "min")


def segment_options(reduce: str, hold: bool, keep_neutral: bool, initial: int) -> int:
    """`SegmentOptions` of csrc/ops/segment/segment.h packed into one int; each argument slows calls."""
    return REDUCE[reduce] | (8 if hold else 0) | (16 if keep_neutral else 0) | (initial + 1) << 5
