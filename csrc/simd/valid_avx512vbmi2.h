// A row's valid tokens moved together, and what was found for them moved back to where they were.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>

#include "bits_avx512.h"
#include "inline.h"
#include "valid_rest.h"

namespace segkernel {

struct ValidTokensAvx512Vbmi2 {
  template <class T>
  using Together = T;

  // Returns how many are valid. `together` has room for `length` values.
  template <class T>
  static SK_INLINE int64_t move_together(const T* values, const bool* mask, int64_t length, T* together) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4);
    constexpr int kLanesOf = 64 / sizeof(T);
    int64_t count = 0;
    int64_t t = 0;
    for (; t + kValidBlock <= length; t += kValidBlock) {
      uint64_t valid = BitsAvx512::nonzero(mask + t);
      for (int64_t lane = 0; lane < kValidBlock; lane += kLanesOf) {
        const __m512i all = _mm512_loadu_si512(values + t + lane);
        // Lanes past those that count are overwritten later. They fall inside `together`: no more than t + lane tokens
        // came before.
        if constexpr (sizeof(T) == 4) {
          const auto here = static_cast<__mmask16>(valid);
          _mm512_storeu_si512(together + count, _mm512_maskz_compress_epi32(here, all));
          count += std::popcount(static_cast<uint16_t>(here));
          valid >>= kLanesOf;
        } else {
          const auto here = static_cast<__mmask32>(valid);
          _mm512_storeu_si512(together + count, _mm512_maskz_compress_epi16(here, all));
          count += std::popcount(static_cast<uint32_t>(here));
          valid >>= kLanesOf;
        }
      }
    }
    return move_rest_together(values, mask, t, length, count, together);
  }

  // `ids` and `flags` (or null) hold `count` entries, one per valid token, in front. Moves each to its token's place;
  // elsewhere they become -1 and false. From the end to the front: no entry is in the way of one before it.
  static SK_INLINE void move_back(const bool* mask, int64_t length, int64_t count, int32_t* ids, bool* flags) {
    int64_t t = length - length % kValidBlock;
    count = move_rest_back(mask, t, length, count, ids, flags);
    const __m512i none = _mm512_set1_epi32(-1);
    for (; t > 0; t -= kValidBlock) {
      const uint64_t valid = BitsAvx512::nonzero(mask + t - kValidBlock);
      const int64_t first = count - std::popcount(valid);
      if (flags != nullptr) {
        const __m512i here = _mm512_maskz_expand_epi8(valid, _mm512_loadu_si512(flags + first));
        _mm512_storeu_si512(flags + t - kValidBlock, here);
      }
      for (int lane = 48; lane >= 0; lane -= 16) {
        const auto here = static_cast<__mmask16>(valid >> lane);
        count -= std::popcount(static_cast<uint16_t>(here));
        const __m512i moved = _mm512_mask_expand_epi32(none, here, _mm512_loadu_si512(ids + count));
        _mm512_storeu_si512(ids + t - kValidBlock + lane, moved);
      }
    }
  }

 private:
  static constexpr int64_t kValidBlock = 64;
};

}  // namespace segkernel
