// Four floats in what every CPU has (SSE2, NEON), through the compilers' vector extension.
#pragma once

#include <string.h>

#include "../core/dtypes.h"
#include "inline.h"

namespace segkernel {

struct VecBaseline {
  using Scalar = float;
  using Floats = float __attribute__((vector_size(16)));
  using Ints = int32_t __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr float kLowest = -2048;  // 2^kLowest is 0

  Floats v;

  static SK_INLINE VecBaseline broadcast(float x) { return {Floats{x, x, x, x}}; }

  static SK_INLINE void load2(const float* p, VecBaseline& a, VecBaseline& b) {
    memcpy(&a.v, p, sizeof(a.v));
    memcpy(&b.v, p + kLanes, sizeof(b.v));
  }
  static SK_INLINE void load2(const bfloat16* p, VecBaseline& a, VecBaseline& b) {  // even elements, odd elements
    Ints pairs;
    memcpy(&pairs, p, sizeof(pairs));
    a.v = reinterpret_cast<Floats>(pairs << 16);
    b.v = reinterpret_cast<Floats>(pairs & static_cast<int32_t>(0xffff0000u));
  }
  static SK_INLINE void load2(const float16* p, VecBaseline& a, VecBaseline& b) {
    a.v = Floats{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
    b.v = Floats{widen(p[4]), widen(p[5]), widen(p[6]), widen(p[7])};
  }

  static SK_INLINE void store2(float* p, VecBaseline a, VecBaseline b) {
    memcpy(p, &a.v, sizeof(a.v));
    memcpy(p + kLanes, &b.v, sizeof(b.v));
  }
  static SK_INLINE void store2(bfloat16* p, VecBaseline a, VecBaseline b) {
    const Ints pairs = ((rounded(a) >> 16) & 0xffff) | (rounded(b) & static_cast<int32_t>(0xffff0000u));
    memcpy(p, &pairs, sizeof(pairs));
  }
  static SK_INLINE void store2(float16* p, VecBaseline a, VecBaseline b) {
    for (int k = 0; k < kLanes; ++k) p[k] = narrow<float16>(a.v[k]);
    for (int k = 0; k < kLanes; ++k) p[kLanes + k] = narrow<float16>(b.v[k]);
  }

  // To bfloat16 in the upper half, nearest even.
  static SK_INLINE Ints rounded(VecBaseline x) {
    using Unsigned = uint32_t __attribute__((vector_size(16)));
    const Unsigned bits = reinterpret_cast<Unsigned>(x.v);
    return reinterpret_cast<Ints>(bits + 0x7fffu + ((bits >> 16) & 1u));
  }
};

SK_INLINE VecBaseline operator+(VecBaseline a, VecBaseline b) { return {a.v + b.v}; }
SK_INLINE VecBaseline operator-(VecBaseline a, VecBaseline b) { return {a.v - b.v}; }
SK_INLINE VecBaseline operator*(VecBaseline a, VecBaseline b) { return {a.v * b.v}; }
SK_INLINE VecBaseline operator/(VecBaseline a, VecBaseline b) { return {a.v / b.v}; }
SK_INLINE VecBaseline fma(VecBaseline a, VecBaseline b, VecBaseline c) { return {a.v * b.v + c.v}; }
SK_INLINE VecBaseline maximum(VecBaseline a, VecBaseline b) { return {a.v > b.v ? a.v : b.v}; }
SK_INLINE VecBaseline minimum(VecBaseline a, VecBaseline b) { return {a.v < b.v ? a.v : b.v}; }

// floor(t) for |t| < 2^22: adding 1.5 * 2^23 to t - 0.5 rounds it to an integer. At a whole t that may be t - 1, with
// fraction 1, which suits the polynomial on [0, 1] as well.
SK_INLINE VecBaseline::Floats biased_floor(VecBaseline t) { return (t.v - 0.5f) + 0x1.8p23f; }

SK_INLINE VecBaseline fraction(VecBaseline t) { return {t.v - (biased_floor(t) - 0x1.8p23f)}; }
SK_INLINE VecBaseline scale(VecBaseline p, VecBaseline t) {
  // The low bits of the biased floor hold the integer.
  VecBaseline::Ints exponent = reinterpret_cast<VecBaseline::Ints>(biased_floor(t)) - (0x4b400000 - 127);
  exponent = exponent > 0 ? exponent : VecBaseline::Ints{};
  return {p.v * reinterpret_cast<VecBaseline::Floats>(exponent << 23)};
}
SK_INLINE VecBaseline magnitude(VecBaseline x) {
  return {reinterpret_cast<VecBaseline::Floats>(reinterpret_cast<VecBaseline::Ints>(x.v) & 0x7fffffff)};
}
SK_INLINE VecBaseline copy_sign(VecBaseline y, VecBaseline x) {
  const VecBaseline::Ints sign = reinterpret_cast<VecBaseline::Ints>(x.v) & static_cast<int32_t>(0x80000000u);
  return {reinterpret_cast<VecBaseline::Floats>(reinterpret_cast<VecBaseline::Ints>(y.v) | sign)};
}
SK_INLINE float reduce_add(VecBaseline x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }
SK_INLINE float reduce_max(VecBaseline x) {
  const float a = x.v[0] > x.v[1] ? x.v[0] : x.v[1];
  const float b = x.v[2] > x.v[3] ? x.v[2] : x.v[3];
  return a > b ? a : b;
}

}  // namespace segkernel
