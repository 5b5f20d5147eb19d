// Generalized advantage estimation, arXiv 1506.02438, eq. 16.
#pragma once

#include "../../core/dtypes.h"

namespace segkernel {

// A_t = delta_t + gamma * lam * A_{t+1}, with delta_t = r_t + gamma * V_{t+1} - V_t.
template <class C>
SK_HOST_DEVICE inline C gae_step(C reward, C value, C next_value, C next_advantage, C gamma, C lam) {
  return reward + gamma * next_value - value + gamma * lam * next_advantage;
}

}  // namespace segkernel
