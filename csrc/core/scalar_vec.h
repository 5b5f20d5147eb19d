// Scalar with the interface of the SIMD vectors, for a CUDA thread and for float64 on the host, and its exp2.
#pragma once

#include <math.h>

#include <cstdint>

#include "inline.h"

namespace segkernel {

SK_INLINE double fast_exp2(double x) { return ::exp2(x); }

// On a GPU the special-function unit's approximation: relative error below 2^-22, subnormal results flushed to 0.
SK_INLINE float fast_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return ::exp2f(x);
#endif
}

template <class C>
struct ScalarVec {
  using Scalar = C;
  static constexpr int kLanes = 1;
  static constexpr C kLowest = -2048;  // 2^kLowest is 0

  C v;

  static SK_INLINE ScalarVec broadcast(C x) { return {x}; }
  static SK_INLINE void load2(const C* p, ScalarVec& a, ScalarVec& b) {
    a.v = p[0];
    b.v = p[1];
  }
  template <class T>
  static constexpr int64_t load2_position(int64_t k) {
    return k;
  }
  static SK_INLINE void store2(C* p, ScalarVec a, ScalarVec b) {
    p[0] = a.v;
    p[1] = b.v;
  }
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
template <class C>
SK_INLINE ScalarVec<C> fma(ScalarVec<C> a, ScalarVec<C> b, ScalarVec<C> c) {
  return {a.v * b.v + c.v};  // contracted where there is an instruction
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

SK_INLINE ScalarVec<double> minimum(ScalarVec<double> a, ScalarVec<double> b) { return {a.v < b.v ? a.v : b.v}; }
SK_INLINE ScalarVec<float> minimum(ScalarVec<float> a, ScalarVec<float> b) {
#if defined(__CUDA_ARCH__)
  float smaller;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(smaller) : "f"(a.v), "f"(b.v));
  return {smaller};
#else
  return {a.v < b.v ? a.v : b.v};
#endif
}

// x if a > b, otherwise y.
template <class C>
SK_INLINE ScalarVec<C> select_greater(ScalarVec<C> a, ScalarVec<C> b, ScalarVec<C> x, ScalarVec<C> y) {
  return {a.v > b.v ? x.v : y.v};
}

template <class C>
SK_INLINE ScalarVec<C> exp2(ScalarVec<C> t) {
  return {fast_exp2(t.v)};
}
// The SIMD vectors' exp2 for t < 128, which is cheaper there.
template <class C>
SK_INLINE ScalarVec<C> exp2_in_range(ScalarVec<C> t) {
  return exp2(t);
}
SK_INLINE ScalarVec<double> log2(ScalarVec<double> x) { return {::log2(x.v)}; }
SK_INLINE ScalarVec<float> log2(ScalarVec<float> x) { return {::log2f(x.v)}; }

// -1 / h for h in [1/2, 1]: a cubic minimax polynomial q with the error e = 1 + h * q, at most 1 / 577, and one step of
// third order. An approximate reciprocal would use the special-function unit, which exp2 keeps busy.
SK_INLINE float negative_reciprocal(float h) {
  float q = ::fmaf(0x1.c65286p+1f, h, -0x1.54bde4p+3f);
  q = ::fmaf(q, h, 0x1.783c56p+3f);
  q = ::fmaf(q, h, -0x1.6a09c2p+2f);
  const float e = ::fmaf(h, q, 1);
  return ::fmaf(q, ::fmaf(e, e, e), q);
}

// tanh(a * b) = sign(ab) * (1 - p / h) with p = e^-2|ab| and h = (1 + p) / 2. The absolute error is relevant here,
// about 1e-7 in float: the result is multiplied by a softcap and exponentiated.
SK_INLINE float tanh_of_product(float a, float b) {
  constexpr float kTwoLog2E = 2.885390082f;
  const float t = a * (b * kTwoLog2E);
  const float power = fast_exp2(-::fabsf(t));
  return ::copysignf(::fmaf(power, negative_reciprocal(::fmaf(0.5f, power, 0.5f)), 1), t);
}
SK_INLINE double tanh_of_product(double a, double b) { return ::tanh(a * b); }

SK_INLINE ScalarVec<double> tanh(ScalarVec<double> x) { return {::tanh(x.v)}; }

template <class C>
SK_INLINE C reduce_add(ScalarVec<C> x) {
  return x.v;
}
template <class C>
SK_INLINE C reduce_max(ScalarVec<C> x) {
  return x.v;
}

}  // namespace segkernel
