"""The integer codes by which the operators know string options. Each is an enum of the same name in csrc/."""

# csrc/segment/segment.h; logsumexp: csrc/segment_reduce/segment_reduce_cpu.cpp
REDUCE = {"sum": 0, "mean": 1, "last": 2, "max": 3, "min": 4, "logsumexp": 5}

# csrc/segment_broadcast/segment_broadcast.h
BROADCAST = {"repeat": 0, "split": 1, "last": 2}

SEGMENT_REDUCTIONS = ("mean", "sum", "last", "max", "min")


def segment_options(reduce: str, hold: bool, keep_neutral: bool, initial: int) -> int:
    """`SegmentOptions` of csrc/segment/segment.h in one number: each that an operator takes makes its calls slower."""
    return REDUCE[reduce] | (8 if hold else 0) | (16 if keep_neutral else 0) | (initial + 1) << 5
