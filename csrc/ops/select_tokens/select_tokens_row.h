// Selection along one row on the host.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "select_tokens.h"

namespace segkernel {

// Marks the `size.of(b, valid tokens)` first-ranked tokens of row `b`. `keys` is scratch memory, whose contents are
// overwritten.
template <class T, class C = compute_t<T>>
void select_row(const T* values, const bool* mask, int64_t length, const SelectionSize& size, int64_t b, bool largest,
                std::vector<RankKey<C>>& keys, bool* selected) {
  keys.clear();
  for (int64_t t = 0; t < length; ++t) {
    if (is_valid(mask, t)) keys.push_back(rank_key<C>(widen(values[t]), largest));
  }
  const int64_t k = size.of(b, static_cast<int64_t>(keys.size()));
  if (k == 0) {
    std::fill_n(selected, length, false);
    return;
  }
  std::nth_element(keys.begin(), keys.begin() + k - 1, keys.end(), std::greater<>());
  const RankKey<C> threshold = keys[k - 1];
  int64_t ties = k - std::count_if(keys.begin(), keys.begin() + k, [&](auto key) { return key > threshold; });
  for (int64_t t = 0; t < length; ++t) {
    selected[t] = false;
    if (!is_valid(mask, t)) continue;
    const RankKey<C> key = rank_key<C>(widen(values[t]), largest);
    selected[t] = key > threshold || (key == threshold && ties-- > 0);
  }
}

}  // namespace segkernel
