// As bits_baseline.h, under AVX-512.
#pragma once

#include "load_avx512.h"
#include "outside.h"

namespace segkernel {

struct BitsAvx512 {
  static SK_INLINE uint64_t nonzero(const bool* bytes) {
    const __m512i all = _mm512_loadu_si512(bytes);
    return _mm512_test_epi8_mask(all, all);
  }

  template <class T>
  static SK_INLINE Outside outside(const T* values, float low, float high) {
    const __m512 lows = _mm512_set1_ps(low);
    const __m512 highs = _mm512_set1_ps(high);
    Outside bits{};
    for (int i = 0; i < 64; i += 16) {
      const __m512 sixteen = load16(values + i);
      bits.above |= uint64_t{_mm512_cmp_ps_mask(sixteen, highs, _CMP_GT_OQ)} << i;
      bits.below |= uint64_t{_mm512_cmp_ps_mask(sixteen, lows, _CMP_LT_OQ)} << i;
    }
    return bits;
  }

  static SK_INLINE void store_signs(uint64_t positive, uint64_t negative, int8_t* signs) {
    _mm512_storeu_si512(signs, _mm512_mask_set1_epi8(_mm512_maskz_set1_epi8(positive, 1), negative, -1));
  }
};

}  // namespace segkernel
