// One number as a vector of one lane: what is written over the vector types of csrc/simd also runs in a GPU's thread.
#pragma once

#include <math.h>

#include "../simd/exp2.h"

namespace segkernel {

template <class C>
struct Lane {
  using Scalar = C;
  static constexpr C kLowest = -2048;  // 2^kLowest is 0

  C v;

  static SK_INLINE Lane broadcast(C x) { return {x}; }
};

template <class C>
SK_INLINE Lane<C> operator+(Lane<C> a, Lane<C> b) {
  return {a.v + b.v};
}
template <class C>
SK_INLINE Lane<C> operator-(Lane<C> a, Lane<C> b) {
  return {a.v - b.v};
}
template <class C>
SK_INLINE Lane<C> operator*(Lane<C> a, Lane<C> b) {
  return {a.v * b.v};
}
SK_INLINE Lane<double> fma(Lane<double> a, Lane<double> b, Lane<double> c) { return {::fma(a.v, b.v, c.v)}; }
SK_INLINE Lane<float> fma(Lane<float> a, Lane<float> b, Lane<float> c) { return {::fmaf(a.v, b.v, c.v)}; }

// NaN where b is.
SK_INLINE Lane<double> maximum(Lane<double> a, Lane<double> b) { return {a.v > b.v ? a.v : b.v}; }
SK_INLINE Lane<float> maximum(Lane<float> a, Lane<float> b) {
#if defined(__CUDA_ARCH__)
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a.v), "f"(b.v));
  return {larger};
#else
  return {a.v > b.v ? a.v : b.v};
#endif
}

template <class C>
SK_INLINE Lane<C> exp2(Lane<C> t) {
  return {fast_exp2(t.v)};
}

// 1 - 2 / (e^2x + 1): its absolute error, about 1e-7 of float, is what counts where the result is multiplied by a
// softcap and exponentiated.
SK_INLINE Lane<float> tanh(Lane<float> x) {
  constexpr float kTwoLog2E = 2.885390082f;
  const float denominator = fast_exp2(x.v * kTwoLog2E) + 1;
#if defined(__CUDA_ARCH__)
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(denominator));
#else
  const float reciprocal = 1 / denominator;
#endif
  return {::fmaf(-2, reciprocal, 1)};
}
SK_INLINE Lane<double> tanh(Lane<double> x) { return {::tanh(x.v)}; }

}  // namespace segkernel
