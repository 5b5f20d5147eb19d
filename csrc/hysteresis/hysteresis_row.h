// The Schmitt trigger along one row on the host.
#pragma once

#include "../rows.h"
#include "hysteresis.h"

namespace segkernel {

template <class T, class C = compute_t<T>>
void hysteresis_row(const T* rewards, const bool* mask, int64_t length, C low, C high, int initial, bool hold,
                    int8_t* states) {
  int state = initial;
  for (int64_t t = 0; t < length; ++t) {
    if (!is_valid(mask, t)) {
      states[t] = 0;
      continue;
    }
    state = schmitt_step(state, widen(rewards[t]), low, high, hold);
    states[t] = static_cast<int8_t>(state);
  }
}

}  // namespace segkernel
