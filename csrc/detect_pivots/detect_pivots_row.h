// Pivots along one row on the host.
#pragma once

#include "../rows.h"
#include "detect_pivots.h"

namespace segkernel {

template <class T, class C = compute_t<T>>
void detect_pivots_row(const T* rewards, const bool* mask, int64_t length, C threshold, bool* pivots) {
  bool first = true;
  C previous = 0;
  for (int64_t t = 0; t < length; ++t) {
    if (!is_valid(mask, t)) {
      pivots[t] = false;
      continue;
    }
    const C reward = widen(rewards[t]);
    pivots[t] = first | is_pivot(reward, previous, threshold);
    previous = reward;
    first = false;
  }
}

}  // namespace segkernel
