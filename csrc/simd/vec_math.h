// exp2 and tanh over any of the vector types, from the few primitives that each of them has.
//
// A vector type V of kLanes floats gives: broadcast, load2, store2, + - * /, fma(a, b, c) = a * b + c,
// maximum(a, b) and minimum(a, b) (b where either is NaN), fraction(t) = t - floor(t), scale(p, t) = p * 2^floor(t),
// magnitude(x), copy_sign(y, x), reduce_add, reduce_max.
#pragma once

#include "inline.h"

namespace segkernel {

// (2^f - 1) / f on [0, 1]: minimax for the relative error of 2^f, 1.4e-7 when evaluated in float.
template <class V>
SK_INLINE V exp2m1_over_f(V f) {
  V q = V::broadcast(0x1.e97512p-10f);
  q = fma(q, f, V::broadcast(0x1.27784ap-7f));
  q = fma(q, f, V::broadcast(0x1.c91ceap-5f));
  q = fma(q, f, V::broadcast(0x1.ebdb56p-3f));
  return fma(q, f, V::broadcast(0x1.62e4bap-1f));
}

// For t <= 127; 0 below the smallest float, NaN for NaN.
template <class V>
SK_INLINE V exp2(V t) {
  const V f = fraction(t);
  return scale(fma(exp2m1_over_f(f), f, V::broadcast(1)), t);
}

// (e^2x - 1) / (e^2x + 1), where e^2x - 1 is formed without cancellation.
template <class V>
SK_INLINE V tanh(V x) {
  constexpr float kTwoLog2E = 2.885390082f;
  constexpr float kSaturated = 40;
  const V t = minimum(V::broadcast(kSaturated), magnitude(x) * V::broadcast(kTwoLog2E));
  const V f = fraction(t);
  const V power = scale(V::broadcast(1), t);
  const V expm1 = fma(exp2m1_over_f(f) * f, power, power - V::broadcast(1));
  return copy_sign(expm1 / (expm1 + V::broadcast(2)), x);
}

// Asks for the cache lines of the next kBytes bytes.
template <int kBytes>
SK_INLINE void prefetch(const char* at) {
  for (int offset = 0; offset < kBytes; offset += 64) __builtin_prefetch(at + offset);
}

}  // namespace segkernel
