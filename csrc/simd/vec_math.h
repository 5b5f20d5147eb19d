// exp2, log2 and tanh over Vec. Their errors are measured over all floats by tests/ops/cpp/exp2_test.cpp.
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

// log2(x) = e + log2(m) with x = m * 2^e and sqrt(1/2) <= m < sqrt(2), within 1.6 ulp, for normal x > 0; q is the
// minimax polynomial of log2(m) / (m - 1) for the relative error.
SK_INLINE Vec log2(Vec x) {
  constexpr uint32_t kRootHalf = 0x3f3504f3u;
  const auto exponent = reinterpret_cast<Vec::Integers>(x.bits() - kRootHalf) >> 23;
  const Vec m = Vec::of_bits(x.bits() - (reinterpret_cast<Vec::Words>(exponent) << 23));
  const Vec w = m - Vec::broadcast(1);
  Vec q = Vec::broadcast(0x1.01b6d2p-3f);
  q = fma(q, w, Vec::broadcast(-0x1.a87d08p-3f));
  q = fma(q, w, Vec::broadcast(0x1.b9c91cp-3f));
  q = fma(q, w, Vec::broadcast(-0x1.e95be8p-3f));
  q = fma(q, w, Vec::broadcast(0x1.26d384p-2f));
  q = fma(q, w, Vec::broadcast(-0x1.715c4ep-2f));
  q = fma(q, w, Vec::broadcast(0x1.ec73d6p-2f));
  q = fma(q, w, Vec::broadcast(-0x1.715470p-1f));
  q = fma(q, w, Vec::broadcast(0x1.715476p+0f));
  return fma(q, w, {__builtin_convertvector(exponent, Vec::Floats)}) + (x - x);  // x - x: NaN for NaN
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
