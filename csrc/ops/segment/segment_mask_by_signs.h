// The loss mask where there is no trigger: tokens are kept by their segments' signs, which are known at the end alone.
// Eight tokens at a time: no more segments than that follow the first one's.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../../simd/inline.h"
#include "segment_params.h"

namespace segkernel {

// Of tokens without holes. `signs` has room for as many segments as tokens.
SK_INLINE void mask_by_signs(const int32_t* ids, int64_t tokens, const int8_t* signs, const SegmentRule<float>& rule,
                             bool* mask) {
  const auto kept_if = [&rule](int sign) { return keeps(sign, rule.sequence_sign, rule.keep_neutral); };
  const __m128i kept_at = _mm_setr_epi8(kept_if(0), kept_if(1), 0, kept_if(-1), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m128i lowest_two_bits = _mm_set1_epi8(3);
  int64_t t = 0;
  for (; t + 8 <= tokens; t += 8) {
    const __m128i first = _mm_set1_epi32(ids[t]);
    const auto after_first = [&](int64_t from) SK_INLINE_LAMBDA {
      return _mm_sub_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(ids + from)), first);
    };
    const __m128i words = _mm_packs_epi32(after_first(t), after_first(t + 4));
    const __m128i segments = _mm_packs_epi16(words, words);
    const __m128i signs_from_first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(signs + ids[t]));
    const __m128i token_signs = _mm_and_si128(_mm_shuffle_epi8(signs_from_first, segments), lowest_two_bits);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(mask + t), _mm_shuffle_epi8(kept_at, token_signs));
  }
  for (; t < tokens; ++t) mask[t] = kept_if(signs[ids[t]]);
}

}  // namespace segkernel
