// Pivots: tokens whose reward differs from the previous valid token's by more than a threshold.
#pragma once

#include "../floats.h"

namespace segkernel {

template <class C>
SK_HOST_DEVICE inline bool is_pivot(C reward, C previous, C threshold) {
  const C difference = reward - previous;
  return (difference > threshold) | (-difference > threshold);  // |difference| > threshold, without a branch
}

}  // namespace segkernel
