// exp2 and tanh over Vec. Their errors are measured over all floats by tests/ops/cpp/exp2_test.cpp.
#pragma once

#include "vec.h"

namespace segkernel {

// (2^f - 1) / f on [0, 1]: the minimax polynomial for the relative error of 2^f.
SK_INLINE Vec exp2m1_over_f(Vec f) {
  Vec q = Vec::broadcast(0x1.e97512p-10f);
  q = fma(q, f, Vec::broadcast(0x1.27784ap-7f));
  q = fma(q, f, Vec::broadcast(0x1.c91ceap-5f));
  q = fma(q, f, Vec::broadcast(0x1.ebdb56p-3f));
  return fma(q, f, Vec::broadcast(0x1.62e4bap-1f));
}

// 2^t = 2^f * 2^floor(t) with f = t - floor(t), within 3.1 ulp, for t >= kLowest; NaN for NaN. Below 2^-126 results are
// flushed to 0 and above 2^127 they saturate, except under AVX-512: there they are subnormal and infinity.
SK_INLINE Vec exp2(Vec t) {
#if !defined(__AVX512F__)
  t = minimum(Vec::broadcast(127), t);
#endif
  const Vec f = fraction(t);
  return scale(fma(exp2m1_over_f(f), f, Vec::broadcast(1)), t);
}

// tanh(x) = (e^2x - 1) / (e^2x + 1), where e^2x - 1 is formed without cancellation; absolute error below 1.2e-7.
SK_INLINE Vec tanh(Vec x) {
  constexpr float kTwoLog2E = 2.885390082f;
  constexpr float kSaturated = 40;
  const Vec t = minimum(Vec::broadcast(kSaturated), magnitude(x) * Vec::broadcast(kTwoLog2E));
  const Vec f = fraction(t);
  const Vec power = scale(Vec::broadcast(1), t);
  const Vec expm1 = fma(exp2m1_over_f(f) * f, power, power - Vec::broadcast(1));
  return copy_sign(expm1 / (expm1 + Vec::broadcast(2)), x);
}

}  // namespace segkernel
