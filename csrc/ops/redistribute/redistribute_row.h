// Reward redistribution along one row on the host.
#pragma once

#include "../../core/rows.h"
#include "redistribute.h"

namespace segkernel {

// `sequence_reward` may be null: no sparse part.
template <class T, class C = compute_t<T>>
void redistribute_row(const T* prefix_scores, const bool* mask, int64_t length, C initial, C mix,
                      const C* sequence_reward, C* rewards) {
  int64_t last = -1;
  C previous = initial;
  C before_last = initial;
  for (int64_t t = 0; t < length; ++t) {
    if (!is_valid(mask, t)) {
      rewards[t] = 0;
      continue;
    }
    const C score = widen(prefix_scores[t]);
    rewards[t] = redistributed<C>(score, previous, mix, 0);
    before_last = previous;
    previous = score;
    last = t;
  }
  if (last >= 0 && sequence_reward != nullptr) {
    rewards[last] = redistributed<C>(previous, before_last, mix, *sequence_reward);
  }
}

}  // namespace segkernel
