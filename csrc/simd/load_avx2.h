// Eight consecutive values, widened, in order.
#pragma once

#include <immintrin.h>

#include "../core/dtypes.h"
#include "inline.h"

namespace segkernel {

SK_INLINE __m256 load8(const float* values) { return _mm256_loadu_ps(values); }
SK_INLINE __m256 load8(const bfloat16* values) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
SK_INLINE __m256 load8(const float16* values) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}

}  // namespace segkernel
