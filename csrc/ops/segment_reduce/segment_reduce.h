// Reductions of token values over segment ids.
#pragma once

#include <cmath>
#include <cstdint>

#include "../segment/segment.h"

namespace segkernel {

// A token belongs to one of the `segments` that are asked for, or to none: masked (-1) or past them.
SK_HOST_DEVICE inline bool in_segments(int32_t id, int64_t segments) { return id >= 0 && id < segments; }

// What the operator's `reduce` is: a Reduce, or this.
constexpr int64_t kLogSumExp = 5;

// logsumexp in one pass: `sum` is relative to exp(`max`). Starts at max = -inf, sum = 0.
template <class C>
struct LogSumExp {
  C max;
  C sum;

  SK_HOST_DEVICE void add(C value) {
    if (value == -INFINITY) return;
    if (value > max) {
      sum = sum * exp(max - value) + 1;
      max = value;
    } else {
      sum += value == max ? 1 : exp(value - max);  // inf - inf would be NaN; a NaN value makes the sum NaN
    }
  }

  // The same for what other tokens came to.
  SK_HOST_DEVICE void merge(const LogSumExp& other) {
    if (other.sum == 0) return;
    if (other.max > max) {
      sum = sum * exp(max - other.max) + other.sum;
      max = other.max;
    } else {
      sum += other.max == max ? other.sum : other.sum * exp(other.max - max);
    }
  }

  SK_HOST_DEVICE C value() const { return max + log(sum); }
};

}  // namespace segkernel
