// Sixteen floats under AVX-512 (F, BW, DQ, VL).
#pragma once

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 suspects its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "../core/dtypes.h"
#include "inline.h"

namespace segkernel {

struct VecAvx512 {
  using Scalar = float;
  static constexpr int kLanes = 16;
  static constexpr float kLowest = -2048;  // 2^kLowest is 0

  __m512 v;

  static SK_INLINE VecAvx512 broadcast(float x) { return {_mm512_set1_ps(x)}; }

  // Two vectors of consecutive elements, in whatever order is cheapest; store2 undoes it.
  static SK_INLINE void load2(const float* p, VecAvx512& a, VecAvx512& b) {
    a.v = _mm512_loadu_ps(p);
    b.v = _mm512_loadu_ps(p + kLanes);
  }
  static SK_INLINE void load2(const bfloat16* p, VecAvx512& a, VecAvx512& b) {  // even elements, odd elements
    const __m512i pairs = _mm512_loadu_si512(p);
    a.v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    b.v = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static SK_INLINE void load2(const float16* p, VecAvx512& a, VecAvx512& b) {
    a.v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    b.v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + kLanes)));
  }

  static SK_INLINE void store2(float* p, VecAvx512 a, VecAvx512 b) {
    _mm512_storeu_ps(p, a.v);
    _mm512_storeu_ps(p + kLanes, b.v);
  }
  static SK_INLINE void store2(bfloat16* p, VecAvx512 a, VecAvx512 b) {
    _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(rounded(a), 16), rounded(b)));
  }
  static SK_INLINE void store2(float16* p, VecAvx512 a, VecAvx512 b) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, kNearest));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + kLanes), _mm512_cvtps_ph(b.v, kNearest));
  }

  // To bfloat16 in the upper half, nearest even.
  static SK_INLINE __m512i rounded(VecAvx512 x) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  }
};

SK_INLINE VecAvx512 operator+(VecAvx512 a, VecAvx512 b) { return {_mm512_add_ps(a.v, b.v)}; }
SK_INLINE VecAvx512 operator-(VecAvx512 a, VecAvx512 b) { return {_mm512_sub_ps(a.v, b.v)}; }
SK_INLINE VecAvx512 operator*(VecAvx512 a, VecAvx512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
SK_INLINE VecAvx512 operator/(VecAvx512 a, VecAvx512 b) { return {_mm512_div_ps(a.v, b.v)}; }
SK_INLINE VecAvx512 fma(VecAvx512 a, VecAvx512 b, VecAvx512 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
SK_INLINE VecAvx512 maximum(VecAvx512 a, VecAvx512 b) { return {_mm512_max_ps(a.v, b.v)}; }
SK_INLINE VecAvx512 minimum(VecAvx512 a, VecAvx512 b) { return {_mm512_min_ps(a.v, b.v)}; }
SK_INLINE VecAvx512 fraction(VecAvx512 t) { return {_mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
SK_INLINE VecAvx512 scale(VecAvx512 p, VecAvx512 t) { return {_mm512_scalef_ps(p.v, t.v)}; }
SK_INLINE VecAvx512 magnitude(VecAvx512 x) { return {_mm512_abs_ps(x.v)}; }
SK_INLINE VecAvx512 copy_sign(VecAvx512 y, VecAvx512 x) {
  return {_mm512_or_ps(y.v, _mm512_and_ps(x.v, _mm512_set1_ps(-0.0f)))};
}
SK_INLINE float reduce_add(VecAvx512 x) { return _mm512_reduce_add_ps(x.v); }
SK_INLINE float reduce_max(VecAvx512 x) { return _mm512_reduce_max_ps(x.v); }

}  // namespace segkernel
