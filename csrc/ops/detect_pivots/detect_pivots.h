// Pivots: tokens whose reward differs from the previous valid token's by more than a threshold.
#pragma once

#include <cmath>

#include "../../core/dtypes.h"

namespace segkernel {

template <class C>
SK_HOST_DEVICE inline bool is_pivot(C reward, C previous, C threshold) {
  return std::fabs(reward - previous) > threshold;
}

}  // namespace segkernel
