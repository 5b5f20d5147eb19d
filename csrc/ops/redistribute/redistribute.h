// R3HF, arXiv 2411.08302: a token's reward is what it adds to the score of the prefix.
#pragma once

#include "../../core/dtypes.h"

namespace segkernel {

// `sequence_reward` is the sparse part, present at the row's last valid token only and 0 elsewhere.
template <class C>
SK_HOST_DEVICE inline C redistributed(C score, C previous, C mix, C sequence_reward) {
  return mix * (score - previous) + (1 - mix) * sequence_reward;
}

}  // namespace segkernel
