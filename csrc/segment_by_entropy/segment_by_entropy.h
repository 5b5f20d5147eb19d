// Segments that start at tokens the model was unsure of.
#pragma once

#include "../floats.h"

namespace segkernel {

// `length` is what the running segment has so far; 0 before the row's first valid token.
template <class C>
SK_HOST_DEVICE inline bool starts_entropy_segment(int64_t length, C entropy, C threshold, int64_t min_length) {
  return length == 0 || (entropy > threshold && length >= min_length);
}

}  // namespace segkernel
