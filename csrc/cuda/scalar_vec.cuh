// Scalar with the interface of the SIMD vectors, so that templates over csrc/simd also compile for a CUDA thread.
#pragma once

#include <math.h>

#include "../simd/exp2.h"

namespace segkernel {

template <class C>
struct ScalarVec {
  using Scalar = C;
  static constexpr C kLowest = -2048;  // 2^kLowest is 0

  C v;

  static SK_INLINE ScalarVec broadcast(C x) { return {x}; }
};

template <class C>
SK_INLINE ScalarVec<C> operator+(ScalarVec<C> a, ScalarVec<C> b) {
  return {a.v + b.v};
}
template <class C>
SK_INLINE ScalarVec<C> operator-(ScalarVec<C> a, ScalarVec<C> b) {
  return {a.v - b.v};
}
template <class C>
SK_INLINE ScalarVec<C> operator*(ScalarVec<C> a, ScalarVec<C> b) {
  return {a.v * b.v};
}
SK_INLINE ScalarVec<double> fma(ScalarVec<double> a, ScalarVec<double> b, ScalarVec<double> c) {
  return {::fma(a.v, b.v, c.v)};
}
SK_INLINE ScalarVec<float> fma(ScalarVec<float> a, ScalarVec<float> b, ScalarVec<float> c) {
  return {::fmaf(a.v, b.v, c.v)};
}

// NaN if b is NaN.
SK_INLINE ScalarVec<double> maximum(ScalarVec<double> a, ScalarVec<double> b) { return {a.v > b.v ? a.v : b.v}; }
SK_INLINE ScalarVec<float> maximum(ScalarVec<float> a, ScalarVec<float> b) {
#if defined(__CUDA_ARCH__)
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a.v), "f"(b.v));
  return {larger};
#else
  return {a.v > b.v ? a.v : b.v};
#endif
}

template <class C>
SK_INLINE ScalarVec<C> exp2(ScalarVec<C> t) {
  return {fast_exp2(t.v)};
}

// tanh(x) = 1 - 2 / (e^2x + 1). The absolute error, about 1e-7 in float, is relevant here: the result is multiplied by
// a softcap and exponentiated.
SK_INLINE ScalarVec<float> tanh(ScalarVec<float> x) {
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
SK_INLINE ScalarVec<double> tanh(ScalarVec<double> x) { return {::tanh(x.v)}; }

}  // namespace segkernel
