// Normalization of values by the mean and the standard deviation of their group.
#pragma once

#include <math.h>

#include "../../core/rows.h"

namespace segkernel {

// Moments of a group's values, relative to its first value, so that equal values have deviations of exactly 0. They are
// float64 for every dtype, so that float32 results hardly depend on the order of summation.
struct Moments {
  int64_t count = 0;
  double first = 0;
  double sum = 0;      // of the differences from `first`
  double mean = 0;     // relative to `first`
  double squares = 0;  // sum of the squared deviations
  double divisor = 1;

  SK_HOST_DEVICE void add(double value) { sum += value - first; }
  SK_HOST_DEVICE void finish_mean() { mean = sum / static_cast<double>(count); }
  SK_HOST_DEVICE double deviation(double value) const { return value - first - mean; }
  SK_HOST_DEVICE void add_square(double value) { squares += deviation(value) * deviation(value); }
  SK_HOST_DEVICE void finish_divisor(double eps) { divisor = sqrt(squares / static_cast<double>(count - 1)) + eps; }

  // 0 also in a group of one value, whose divisor is NaN.
  SK_HOST_DEVICE double normalized(double value) const {
    return deviation(value) == 0 ? 0 : deviation(value) / divisor;
  }
};

// Valid values of a row of `segments`.
SK_HOST_DEVICE inline int64_t valid_values(int32_t count, int64_t segments) {
  return count < 0 ? 0 : count < segments ? count : segments;
}

}  // namespace segkernel
