// Segment reductions along one row on the host.
#pragma once

#include <cstdint>

#include "../rows.h"
#include "segment_reduce.h"

namespace segkernel {

// `out` and the scratch `counts` have `segments` entries; a segment without tokens is 0.
template <Reduce kReduce, class T, class C = compute_t<T>>
void segment_reduce_row(const T* values, const int32_t* ids, int64_t length, int64_t segments, int32_t* counts,
                        C* out) {
  for (int64_t k = 0; k < segments; ++k) {
    counts[k] = 0;
    out[k] = 0;
  }
  for (int64_t t = 0; t < length; ++t) {
    const int32_t k = ids[t];
    if (!in_segments(k, segments)) continue;
    const C value = widen(values[t]);
    out[k] = counts[k] == 0 ? value : fold<kReduce>(out[k], value);
    ++counts[k];
  }
  if (kReduce != Reduce::mean) return;
  for (int64_t k = 0; k < segments; ++k) {
    if (counts[k] > 0) out[k] = finish<kReduce>(out[k], counts[k]);
  }
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
