// Generalized advantage estimation along one row on the host, last token first.
#pragma once

#include "../../core/rows.h"
#include "gae.h"

namespace segkernel {

template <class T, class C = compute_t<T>>
void gae_row(const T* rewards, const T* values, const bool* mask, int64_t length, C gamma, C lam, C* advantages,
             C* returns) {
  C next_value = 0;
  C next_advantage = 0;
  for (int64_t t = length - 1; t >= 0; --t) {
    if (!is_valid(mask, t)) {
      advantages[t] = 0;
      returns[t] = 0;
      continue;
    }
    const C value = widen(values[t]);
    next_advantage = gae_step<C>(widen(rewards[t]), value, next_value, next_advantage, gamma, lam);
    next_value = value;
    advantages[t] = next_advantage;
    returns[t] = next_advantage + value;
  }
}

}  // namespace segkernel
