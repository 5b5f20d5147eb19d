// Sixteen consecutive values, widened, in order.
#pragma once

#include <immintrin.h>

#include "../core/dtypes.h"
#include "inline.h"

namespace segkernel {

SK_INLINE __m512 load16(const float* values) { return _mm512_loadu_ps(values); }
SK_INLINE __m512 load16(const bfloat16* values) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
SK_INLINE __m512 load16(const float16* values) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
}

}  // namespace segkernel
