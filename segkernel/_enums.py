"""String options of the operators, with their integer values where csrc/ has an enum of them; keep both in sync."""

# enum Reduce, csrc/ops/segment/segment.h; logsumexp: kLogSumExp, csrc/ops/segment_reduce/segment_reduce.h
REDUCE = {"sum": 0, "mean": 1, "last": 2, "max": 3, "min": 4, "logsumexp": 5}

# enum Broadcast, csrc/ops/segment_broadcast/segment_broadcast.h
BROADCAST = {"repeat": 0, "split": 1, "last": 2}

# enum Divergence, csrc/ops/token_divergences/token_divergences.h
DIVERGENCE = {"kl": 0, "reverse_kl": 1, "js": 2, "tv": 3}

# enum Outputs, csrc/ops/token_logprobs/token_logprobs.h: each includes those before it
LOGPROB_OUTPUTS = {"logprobs": 0, "entropies": 1, "statistics": 2}

SEGMENT_REDUCTIONS = ("mean", "sum", "last", "max", "min")

# Masked positions between the valid tokens of a row, in `gae`.
HOLES = ("skip", "decay")
