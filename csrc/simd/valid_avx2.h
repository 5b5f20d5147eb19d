// A row's valid tokens moved together, and what was found for them moved back to where they were.
#pragma once

#include <bit>
#include <cstdint>

#include "bits_avx2.h"
#include "eights_avx2.h"
#include "load_avx2.h"
#include "valid_rest.h"

namespace segkernel {

struct ValidTokensAvx2 {
  template <class T>
  using Together = float;

  // Returns how many are valid. `together` has room for `length` values.
  template <class T>
  static SK_INLINE int64_t move_together(const T* values, const bool* mask, int64_t length, float* together) {
    int64_t count = 0;
    int64_t t = 0;
    for (; t + kValidBlock <= length; t += kValidBlock) {
      uint32_t valid = BitsAvx2::nonzero32(mask + t);
      for (int64_t lane = 0; lane < kValidBlock; lane += 8) {
        const auto here = static_cast<uint8_t>(valid);
        // Lanes past those that count are overwritten later. They fall inside `together`: no more than t + lane tokens
        // came before.
        const __m256 moved = _mm256_permutevar8x32_ps(load8(values + t + lane), kBitPlaces.lanes(here));
        _mm256_storeu_ps(together + count, moved);
        count += std::popcount(here);
        valid >>= 8;
      }
    }
    return move_rest_together(values, mask, t, length, count, together);
  }

  // `ids` and `flags` (or null) hold `count` entries, one per valid token, in front. Moves each to its token's place;
  // elsewhere they become -1 and false. From the end to the front: no entry is in the way of one before it.
  static SK_INLINE void move_back(const bool* mask, int64_t length, int64_t count, int32_t* ids, bool* flags) {
    int64_t t = length - length % kValidBlock;
    count = move_rest_back(mask, t, length, count, ids, flags);
    for (; t > 0; t -= kValidBlock) {
      const uint32_t valid = BitsAvx2::nonzero32(mask + t - kValidBlock);
      for (int lane = 24; lane >= 0; lane -= 8) {
        const auto here = static_cast<uint8_t>(valid >> lane);
        const int64_t to = t - kValidBlock + lane;
        count -= std::popcount(here);
        const __m128i valid_bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + to));
        const __m128i places = _mm_sub_epi8(kBitsUpTo.bytes(here), _mm_set1_epi8(1));
        const __m256i none = _mm256_sub_epi32(_mm256_cvtepi8_epi32(valid_bytes), _mm256_set1_epi32(1));
        const __m256i from = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ids + count));
        const __m256i moved = _mm256_permutevar8x32_epi32(from, _mm256_cvtepi8_epi32(places));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + to), _mm256_or_si256(moved, none));
        if (flags == nullptr) continue;
        const __m128i flags_from = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(flags + count));
        const __m128i kept = _mm_and_si128(_mm_shuffle_epi8(flags_from, places), valid_bytes);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(flags + to), kept);
      }
    }
  }

 private:
  static constexpr int64_t kValidBlock = 32;
};

}  // namespace segkernel
