// Eight floats under AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include "../core/dtypes.h"
#include "inline.h"

namespace segkernel {

struct VecAvx2 {
  using Scalar = float;
  static constexpr int kLanes = 8;
  static constexpr float kLowest = -2048;  // 2^kLowest is 0

  __m256 v;

  static SK_INLINE VecAvx2 broadcast(float x) { return {_mm256_set1_ps(x)}; }

  // Two vectors of consecutive elements, in whatever order is cheapest; store2 undoes it.
  static SK_INLINE void load2(const float* p, VecAvx2& a, VecAvx2& b) {
    a.v = _mm256_loadu_ps(p);
    b.v = _mm256_loadu_ps(p + kLanes);
  }
  static SK_INLINE void load2(const bfloat16* p, VecAvx2& a, VecAvx2& b) {  // even elements, odd elements
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    a.v = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    b.v = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static SK_INLINE void load2(const float16* p, VecAvx2& a, VecAvx2& b) {
    a.v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    b.v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + kLanes)));
  }

  static SK_INLINE void store2(float* p, VecAvx2 a, VecAvx2 b) {
    _mm256_storeu_ps(p, a.v);
    _mm256_storeu_ps(p + kLanes, b.v);
  }
  static SK_INLINE void store2(bfloat16* p, VecAvx2 a, VecAvx2 b) {
    const __m256i pairs = _mm256_blend_epi16(_mm256_srli_epi32(rounded(a), 16), rounded(b), 0xaa);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pairs);
  }
  static SK_INLINE void store2(float16* p, VecAvx2 a, VecAvx2 b) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, kNearest));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + kLanes), _mm256_cvtps_ph(b.v, kNearest));
  }

  // To bfloat16 in the upper half, nearest even.
  static SK_INLINE __m256i rounded(VecAvx2 x) {
    const __m256i bits = _mm256_castps_si256(x.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  }
};

SK_INLINE VecAvx2 operator+(VecAvx2 a, VecAvx2 b) { return {_mm256_add_ps(a.v, b.v)}; }
SK_INLINE VecAvx2 operator-(VecAvx2 a, VecAvx2 b) { return {_mm256_sub_ps(a.v, b.v)}; }
SK_INLINE VecAvx2 operator*(VecAvx2 a, VecAvx2 b) { return {_mm256_mul_ps(a.v, b.v)}; }
SK_INLINE VecAvx2 operator/(VecAvx2 a, VecAvx2 b) { return {_mm256_div_ps(a.v, b.v)}; }
SK_INLINE VecAvx2 fma(VecAvx2 a, VecAvx2 b, VecAvx2 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
SK_INLINE VecAvx2 maximum(VecAvx2 a, VecAvx2 b) { return {_mm256_max_ps(a.v, b.v)}; }
SK_INLINE VecAvx2 minimum(VecAvx2 a, VecAvx2 b) { return {_mm256_min_ps(a.v, b.v)}; }
SK_INLINE VecAvx2 fraction(VecAvx2 t) { return {_mm256_sub_ps(t.v, _mm256_floor_ps(t.v))}; }
SK_INLINE VecAvx2 scale(VecAvx2 p, VecAvx2 t) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvttps_epi32(_mm256_floor_ps(t.v)), _mm256_set1_epi32(127));
  const __m256i power = _mm256_slli_epi32(_mm256_max_epi32(exponent, _mm256_setzero_si256()), 23);
  return {_mm256_mul_ps(p.v, _mm256_castsi256_ps(power))};
}
SK_INLINE VecAvx2 magnitude(VecAvx2 x) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v)}; }
SK_INLINE VecAvx2 copy_sign(VecAvx2 y, VecAvx2 x) {
  return {_mm256_or_ps(y.v, _mm256_and_ps(x.v, _mm256_set1_ps(-0.0f)))};
}
SK_INLINE float reduce_add(VecAvx2 x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
SK_INLINE float reduce_max(VecAvx2 x) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

}  // namespace segkernel
