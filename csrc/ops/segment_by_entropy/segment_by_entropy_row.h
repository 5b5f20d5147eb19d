// Entropy segmentation along one row on the host.
#pragma once

#include "../../core/rows.h"
#include "segment_by_entropy.h"

namespace segkernel {

// Returns the number of segments.
template <class T, class C = compute_t<T>>
int32_t segment_by_entropy_row(const T* entropy, const bool* mask, int64_t length, C threshold, int64_t min_length,
                               int32_t* ids) {
  int32_t segment = -1;
  int64_t segment_length = 0;
  for (int64_t t = 0; t < length; ++t) {
    if (!is_valid(mask, t)) {
      ids[t] = -1;
      continue;
    }
    const bool uncertain = is_uncertain<C>(widen(entropy[t]), threshold);
    const bool starts = starts_entropy_segment(segment_length, uncertain, min_length);
    segment += starts;
    segment_length = starts ? 1 : segment_length + 1;
    ids[t] = segment;
  }
  return segment + 1;
}

}  // namespace segkernel
