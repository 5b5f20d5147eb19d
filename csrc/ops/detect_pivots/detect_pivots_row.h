// Pivots along one row on the host.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../../core/rows.h"
#include "../../core/valid_span.h"
#include "detect_pivots.h"

namespace segkernel {

template <class T, class C = compute_t<T>>
void detect_pivots_row(const T* rewards, const bool* mask, int64_t length, C threshold, bool* pivots) {
  // Without holes compilers vectorize the loop. It widens each reward twice, which does not pay for float16.
  if constexpr (!std::is_same_v<T, float16>) {
    if (const auto span = span_without_holes(mask, length)) {
      const auto [begin, end] = *span;
      std::fill(pivots, pivots + length, false);
      if (begin < end) pivots[begin] = true;
      for (int64_t t = begin + 1; t < end; ++t) {
        pivots[t] = is_pivot(widen(rewards[t]), widen(rewards[t - 1]), threshold);
      }
      return;
    }
  }
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
