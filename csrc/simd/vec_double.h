// One double, for float64 logits: the C library's exp2 and tanh.
#pragma once

#include <math.h>

#include "inline.h"

namespace segkernel {

struct VecDouble {
  using Scalar = double;
  static constexpr int kLanes = 1;
  static constexpr double kLowest = -2048;  // 2^kLowest is 0

  double v;

  static SK_INLINE VecDouble broadcast(double x) { return {x}; }
  static SK_INLINE void load2(const double* p, VecDouble& a, VecDouble& b) {
    a.v = p[0];
    b.v = p[1];
  }
  static SK_INLINE void store2(double* p, VecDouble a, VecDouble b) {
    p[0] = a.v;
    p[1] = b.v;
  }
};

SK_INLINE VecDouble operator+(VecDouble a, VecDouble b) { return {a.v + b.v}; }
SK_INLINE VecDouble operator-(VecDouble a, VecDouble b) { return {a.v - b.v}; }
SK_INLINE VecDouble operator*(VecDouble a, VecDouble b) { return {a.v * b.v}; }
SK_INLINE VecDouble fma(VecDouble a, VecDouble b, VecDouble c) { return {a.v * b.v + c.v}; }
SK_INLINE VecDouble maximum(VecDouble a, VecDouble b) { return {a.v > b.v ? a.v : b.v}; }
SK_INLINE VecDouble exp2(VecDouble t) { return {::exp2(t.v)}; }
SK_INLINE VecDouble tanh(VecDouble x) { return {::tanh(x.v)}; }
SK_INLINE double reduce_add(VecDouble x) { return x.v; }
SK_INLINE double reduce_max(VecDouble x) { return x.v; }

}  // namespace segkernel
