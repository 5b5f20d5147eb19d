"""Integer values of string options; keep in sync with the enums in csrc/."""

# enum Reduce, csrc/ops/segment/segment.h; logsumexp: kLogSumExp, csrc/ops/segment_reduce/segment_reduce.h
REDUCE = {"sum": 0, "mean": 1, "last": 2, "max": 3, "min": 4, "logsumexp": 5}

# enum Broadcast, csrc/ops/segment_broadcast/segment_broadcast.h
BROADCAST = {"repeat": 0, "split": 1, "last": 2}

SEGMENT_REDUCTIONS = ("mean", "sum", "last", "max", "min")
