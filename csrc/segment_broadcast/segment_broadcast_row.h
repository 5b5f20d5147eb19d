// Segment values given back to the tokens of one row on the host.
#pragma once

#include "../rows.h"
#include "segment_broadcast.h"

namespace segkernel {

// The scratch `lengths` has `segments` entries: tokens per segment.
template <class T, class C = compute_t<T>>
void segment_broadcast_row(const T* values, const int32_t* ids, int64_t length, int64_t segments, Broadcast how,
                           int32_t* lengths, C* out) {
  for (int64_t k = 0; k < segments; ++k) lengths[k] = 0;
  for (int64_t t = 0; t < length; ++t) {
    if (in_segments(ids[t], segments)) ++lengths[ids[t]];
  }
  // Backwards, so that the first token met of a segment is its last; a length of 0 then marks it as seen.
  for (int64_t t = length - 1; t >= 0; --t) {
    const int32_t k = ids[t];
    if (!in_segments(k, segments)) {
      out[t] = 0;
      continue;
    }
    out[t] = share_of<C>(how, widen(values[k]), lengths[k], lengths[k] > 0);
    if (how == Broadcast::last) lengths[k] = 0;
  }
}

}  // namespace segkernel
