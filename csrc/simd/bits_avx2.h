// As bits_baseline.h, under AVX2.
#pragma once

#include "eights_avx2.h"
#include "load_avx2.h"
#include "outside.h"

namespace segkernel {

struct BitsAvx2 {
  static SK_INLINE uint32_t nonzero32(const bool* bytes) {
    const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    return ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(all, _mm256_setzero_si256())));
  }
  static SK_INLINE uint64_t nonzero(const bool* bytes) {
    return uint64_t{nonzero32(bytes + 32)} << 32 | nonzero32(bytes);
  }

  template <class T>
  static SK_INLINE Outside outside(const T* values, float low, float high) {
    const __m256 lows = _mm256_set1_ps(low);
    const __m256 highs = _mm256_set1_ps(high);
    Outside bits{};
    for (int i = 0; i < 64; i += 8) {
      const __m256 eight = load8(values + i);
      bits.above |= eight_bits(_mm256_cmp_ps(eight, highs, _CMP_GT_OQ)) << i;
      bits.below |= eight_bits(_mm256_cmp_ps(eight, lows, _CMP_LT_OQ)) << i;
    }
    return bits;
  }

  static SK_INLINE void store_signs(uint64_t positive, uint64_t negative, int8_t* signs) {
    for (int i = 0; i < 64; i += 32) {
      const auto of_half = [i](uint64_t bits) { return bytes_where(static_cast<uint32_t>(bits >> i)); };
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(signs + i), _mm256_sub_epi8(of_half(negative), of_half(positive)));
    }
  }

 private:
  static SK_INLINE uint64_t eight_bits(__m256 where) { return static_cast<uint8_t>(_mm256_movemask_ps(where)); }
};

}  // namespace segkernel
