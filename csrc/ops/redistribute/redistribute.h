// Reward redistribution (R3HF, arXiv 2411.08302): a token's reward is the difference that it makes to the prefix score.
#pragma once

#include "../../core/dtypes.h"

namespace segkernel {

// `sequence_reward`: the sparse part, 0 except at the row's last valid token.
template <class C>
SK_HOST_DEVICE inline C redistributed(C score, C previous, C mix, C sequence_reward) {
  return mix * (score - previous) + (1 - mix) * sequence_reward;
}

}  // namespace segkernel
