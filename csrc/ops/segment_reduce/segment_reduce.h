// Reductions of token values over segment ids.
#pragma once

#include <cmath>
#include <cstdint>

#include "../../core/reduce.h"

namespace segkernel {

// Whether a token belongs to one of `segments` segments. Masked tokens have the id -1; larger ids are left out.
SK_HOST_DEVICE inline bool in_segments(int32_t id, int64_t segments) { return id >= 0 && id < segments; }

// A value of the operator's `reduce` next to those of the enum Reduce.
constexpr int64_t kLogSumExp = 5;

// Online logsumexp: log sum exp = max + log(sum). Initially max = -inf, sum = 0.
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
      sum += value == max ? 1 : exp(value - max);  // avoids inf - inf; a NaN value makes the sum NaN
    }
  }

  // Adds the tokens of another state.
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
