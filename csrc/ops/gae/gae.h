// Generalized advantage estimation, arXiv 1506.02438, eq. 16.
#pragma once

#include "../discounted_sum/discounted_sum.h"

namespace segkernel {

// A_t = delta_t + gamma * lam * A_{t+1}, with delta_t = r_t + gamma * V_{t+1} - V_t. A masked position that counts as a
// step has reward and value 0.
template <class C>
SK_HOST_DEVICE inline C gae_step(C reward, C value, C next_value, C next_advantage, C gamma, C lam) {
  return discounted(reward + gamma * next_value - value, gamma * lam, next_advantage);
}

// Advantages of one token under `lam` and under `value_lam`. The latter plus the token's value is its return.
template <class C>
struct Advantages {
  C of_lam;
  C of_value_lam;
};

}  // namespace segkernel
