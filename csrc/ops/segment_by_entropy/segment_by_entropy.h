// Entropy segmentation: segments start at tokens of high predictive entropy.
#pragma once

#include "../../core/dtypes.h"

namespace segkernel {

template <class C>
SK_HOST_DEVICE inline bool is_uncertain(C entropy, C threshold) {
  return entropy > threshold;
}

// `length`: tokens of the running segment so far, 0 before the row's first valid token.
SK_HOST_DEVICE inline bool starts_entropy_segment(int64_t length, bool uncertain, int64_t min_length) {
  return length == 0 || (uncertain && length >= min_length);
}

}  // namespace segkernel
