// Discounted sum along one row on the host: last token first, or, for the adjoint, the first.
#pragma once

#include "../../core/rows.h"
#include "discounted_sum.h"

namespace segkernel {

template <class T, class C = compute_t<T>>
void discounted_sum_row(const T* values, const bool* mask, int64_t length, C discount, bool adjoint, C* sums) {
  C sum = 0;
  for (int64_t i = 0; i < length; ++i) {
    const int64_t t = adjoint ? i : length - 1 - i;
    if (is_valid(mask, t)) sum = discounted<C>(widen(values[t]), discount, sum);
    sums[t] = is_valid(mask, t) ? sum : 0;
  }
}

}  // namespace segkernel
