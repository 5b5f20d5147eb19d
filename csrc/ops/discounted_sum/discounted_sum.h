// Discounted sum: y_t = x_t + discount * y_next, and its adjoint, which goes from the first token to the last.
#pragma once

#include "../../core/dtypes.h"

namespace segkernel {

template <class C>
SK_HOST_DEVICE inline C discounted(C value, C discount, C next_sum) {
  return value + discount * next_sum;
}

}  // namespace segkernel
