// Broadcast of segment values to the tokens of one row on the host.
#pragma once

#include <algorithm>

#include "../../core/rows.h"
#include "segment_broadcast.h"

namespace segkernel {

// `known` and `shares`: scratch of `segments + 1` entries. The last collects tokens without a segment, so that there is
// no branch on masked tokens and segment ends.
template <Broadcast kHow, class T, class C = compute_t<T>>
void segment_broadcast_row(const T* values, const int32_t* ids, int64_t length, int64_t segments, int64_t* known,
                           C* shares, C* out) {
  const auto slot = [&](int64_t t) { return in_segments(ids[t], segments) ? int64_t{ids[t]} : segments; };
  // Per segment: its number of tokens (split), or the position after its last token (last).
  if constexpr (kHow == Broadcast::split) {
    for (int64_t t = 0; t < length; ++t) ++known[slot(t)];
  }
  if constexpr (kHow == Broadcast::last) {
    for (int64_t t = 0; t < length; ++t) known[slot(t)] = t + 1;
  }
  for (int64_t k = 0; k < segments; ++k) {
    shares[k] = share_of<C>(kHow, widen(values[k]), static_cast<int32_t>(known[k]), /*is_last=*/true);
  }
  shares[segments] = 0;
  if constexpr (kHow == Broadcast::last) {
    std::fill(out, out + length, C{0});
    for (int64_t k = 0; k < segments; ++k) {
      if (known[k] > 0) out[known[k] - 1] = shares[k];
    }
  } else {
    for (int64_t t = 0; t < length; ++t) out[t] = shares[slot(t)];
  }
}

}  // namespace segkernel
