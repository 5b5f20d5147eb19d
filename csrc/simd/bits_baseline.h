// A bit per token, of 64 tokens, from what is kept in numbers and bytes, and back; for any little-endian machine.
#pragma once

#include <cstdint>
#include <cstring>

#include "../core/dtypes.h"
#include "inline.h"
#include "outside.h"

namespace segkernel {

struct BitsBaseline {
  static SK_INLINE uint64_t nonzero(const bool* bytes) {
    uint64_t bits = 0;
    for (int i = 0; i < 64; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, bytes + i, sizeof(eight));
      // Moves every byte's lowest bit to its place in the highest byte; the products don't overlap there.
      bits |= (ones_where_nonzero(eight) * 0x0102040810204080) >> 56 << i;
    }
    return bits;
  }

  // NaN is neither above nor below.
  template <class T, class C>
  static SK_INLINE Outside outside(const T* values, C low, C high) {
    bool above[64];
    bool below[64];
    for (int i = 0; i < 64; ++i) {
      const C value = widen(values[i]);
      above[i] = value > high;
      below[i] = value < low;
    }
    return {nonzero(above), nonzero(below)};
  }

  // 1 where a bit of `positive` is set, -1 where one of `negative` is, else 0.
  static SK_INLINE void store_signs(uint64_t positive, uint64_t negative, int8_t* signs) {
    for (int i = 0; i < 64; i += 8) {
      const uint64_t eight = ones(positive >> i) | ones(negative >> i) * 0xff;
      std::memcpy(signs + i, &eight, sizeof(eight));
    }
  }

 private:
  // 1 in every byte that is not 0: such a byte carries into its highest bit, or has that one already.
  static SK_INLINE uint64_t ones_where_nonzero(uint64_t bytes) {
    constexpr uint64_t kLower = 0x7f7f7f7f7f7f7f7f;
    return ((((bytes & kLower) + kLower) | bytes) >> 7) & 0x0101010101010101;
  }

  // 1 in every byte whose bit, of the lowest eight, is set.
  static SK_INLINE uint64_t ones(uint64_t bits) {
    return ones_where_nonzero(((bits & 0xff) * 0x0101010101010101) & 0x8040201008040201);
  }
};

}  // namespace segkernel
