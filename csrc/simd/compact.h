// Stream compaction: a row's valid tokens moved together, and results for them moved back to their positions.
#pragma once

#include <bit>

#include "bitmask.h"

namespace segkernel {
inline namespace SK_VEC_NAMESPACE {

// Calls body(position) for every valid position of a row. `bits & (bits - 1)` clears the lowest set bit, so a word
// takes one iteration per valid position: 0110 -> 0010 -> 0000.
template <class Body>
SK_INLINE void for_each_valid(const bool* mask, int64_t length, const Body& body) {
  for (int64_t t = 0; t < length; t += kWordBits) {
    bool rest[kWordBits]{};
    const bool* word = mask + t;
    if (length - t < kWordBits) {
      memcpy(rest, word, static_cast<size_t>(length - t));
      word = rest;
    }
    for (uint64_t bits = bits_of_bytes(word); bits != 0; bits &= bits - 1) body(t + std::countr_zero(bits));
  }
}

// Returns the number of valid tokens. `valid` has room for `length` values and may be `values` itself.
SK_INLINE int64_t compress_valid(const float* values, const bool* mask, int64_t length, float* valid) {
  int64_t count = 0;
  for_each_valid(mask, length, [&](int64_t t) SK_INLINE_LAMBDA { valid[count++] = values[t]; });
  return count;
}

// The inverse, with `masked` at positions that are not valid.
template <class T>
SK_INLINE void expand_valid(const T* valid, const bool* mask, int64_t length, T masked, T* values) {
  for (int64_t t = 0; t < length; ++t) values[t] = masked;
  for_each_valid(mask, length, [&](int64_t t) SK_INLINE_LAMBDA { values[t] = *valid++; });
}

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
