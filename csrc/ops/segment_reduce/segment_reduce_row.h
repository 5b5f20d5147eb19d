// Segment reductions along one row on the host.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../../core/rows.h"
#include "segment_reduce.h"

namespace segkernel {

constexpr int kTokensAtOnce = 8;

// `counts` and `folded`: scratch of `segments + kTokensAtOnce` entries. The last kTokensAtOnce collect tokens without a
// segment, so that there is no branch on segment starts and masked tokens, which are unpredictable.
template <Reduce kReduce, class T, class C = compute_t<T>>
void segment_reduce_row(const T* values, const int32_t* ids, int64_t length, int64_t segments, int32_t* counts,
                        C* folded, C* out) {
  std::fill(counts, counts + segments, 0);
  std::fill(folded, folded + segments, fold_identity<kReduce, C>());
  const auto add = [&](int64_t t, int64_t none) {
    const int64_t k = in_segments(ids[t], segments) ? ids[t] : segments + none;
    folded[k] = fold<kReduce>(folded[k], widen(values[t]));
    ++counts[k];
  };
  int64_t t = 0;
  for (; t + kTokensAtOnce <= length; t += kTokensAtOnce) {
    int32_t differ = 0;
    for (int i = 1; i < kTokensAtOnce; ++i) differ |= ids[t + i] ^ ids[t];
    if (differ != 0) {
      for (int i = 0; i < kTokensAtOnce; ++i) add(t + i, i);
    } else if (in_segments(ids[t], segments)) {  // inside a long segment: accumulate in a register
      C so_far = folded[ids[t]];
      for (int i = 0; i < kTokensAtOnce; ++i) so_far = fold<kReduce>(so_far, widen(values[t + i]));
      folded[ids[t]] = so_far;
      counts[ids[t]] += kTokensAtOnce;
    }
  }
  for (; t < length; ++t) add(t, 0);
  for (int64_t k = 0; k < segments; ++k) out[k] = counts[k] > 0 ? finish<kReduce>(folded[k], counts[k]) : 0;
}

// The same for logsumexp; the scratch `states` has `segments` entries.
template <class T, class C = compute_t<T>>
void segment_logsumexp_row(const T* values, const int32_t* ids, int64_t length, int64_t segments, int32_t* counts,
                           LogSumExp<C>* states, C* out) {
  for (int64_t k = 0; k < segments; ++k) {
    counts[k] = 0;
    states[k] = {-static_cast<C>(INFINITY), 0};
  }
  for (int64_t t = 0; t < length; ++t) {
    const int32_t k = ids[t];
    if (!in_segments(k, segments)) continue;
    states[k].add(widen(values[t]));
    ++counts[k];
  }
  for (int64_t k = 0; k < segments; ++k) out[k] = counts[k] > 0 ? states[k].value() : 0;
}

}  // namespace segkernel
