// Stream compaction: a row's valid tokens moved together, and results for them moved back to their positions.
#pragma once

#include <bit>

#include "bitmask.h"

namespace segkernel {
inline namespace SK_VEC_NAMESPACE {

// Calls body(position) for every valid position in [begin, length). `bits & (bits - 1)` clears the lowest set bit, so a
// word takes one iteration per valid position: 0110 -> 0010 -> 0000.
template <class Body>
SK_INLINE void for_each_valid(const bool* mask, int64_t begin, int64_t length, const Body& body) {
  for (int64_t t = begin; t < length; t += kWordBits) {
    bool rest[kWordBits]{};
    const bool* word = mask + t;
    if (length - t < kWordBits) {
      memcpy(rest, word, static_cast<size_t>(length - t));
      word = rest;
    }
    for (uint64_t bits = bits_of_bytes(word); bits != 0; bits &= bits - 1) body(t + std::countr_zero(bits));
  }
}

#if defined(__AVX2__)
SK_INLINE __m128i load_bytes8(const void* bytes) { return _mm_loadl_epi64(static_cast<const __m128i*>(bytes)); }
SK_INLINE __m128i lookup8(const std::array<uint64_t, 256>& table, uint8_t byte) {
  return _mm_cvtsi64_si128(static_cast<int64_t>(table[byte]));
}

// The lanes at the set bits of `bits`, moved together: a b c d, 0110 -> b c. Lanes past them are unspecified.
SK_INLINE Vec compress(Vec x, uint64_t bits) {
#if defined(__AVX512F__)
  return {_mm512_maskz_compress_ps(static_cast<__mmask16>(bits), x.v)};
#else
  return {_mm256_permutevar8x32_ps(x.v, _mm256_cvtepu8_epi32(lookup8(kSetBits, bits & 0xff)))};
#endif
}
#endif

// Widens the valid values. Returns their number; `valid` has room for `length`.
template <class T>
SK_INLINE int64_t compress_valid(const T* values, const bool* mask, int64_t length, float* valid) {
  int64_t count = 0;
  int64_t t = 0;
#if defined(__AVX2__)
  // Without branches. Entries past `count` are overwritten later.
  for (; t + kWordBits <= length; t += kWordBits) {
    const uint64_t bits = bits_of_bytes(mask + t);
    for (int i = 0; i < kWordBits; i += Vec::kLanes) {
      compress(Vec::load(values + t + i), bits >> i).store(valid + count);
      count += std::popcount(bits >> i & kLanesMask);
    }
  }
#endif
  for_each_valid(mask, t, length, [&](int64_t position) SK_INLINE_LAMBDA { valid[count++] = widen(values[position]); });
  return count;
}

// The inverse for ids and flags (null: none), which are -1 and false at positions that are not valid.
SK_INLINE void expand_valid(const int32_t* valid_ids, const bool* valid_flags, const bool* mask, int64_t length,
                            int32_t* ids, bool* flags) {
  int64_t t = 0;
#if defined(__AVX2__)
  for (; t + kWordBits <= length; t += kWordBits) {
    uint64_t bits = bits_of_bytes(mask + t);
    for (int64_t at = t; at < t + kWordBits; at += 8, bits >>= 8) {
      const auto byte = static_cast<uint8_t>(bits);
      const __m128i masked = _mm_cmpeq_epi8(load_bytes8(mask + at), _mm_setzero_si128());
      const __m128i places = _mm_sub_epi8(lookup8(kBitCounts, byte), _mm_set1_epi8(1));
      const __m256i eight_ids = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(valid_ids));
      const __m256i moved = _mm256_permutevar8x32_epi32(eight_ids, _mm256_cvtepu8_epi32(places));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + at), _mm256_or_si256(moved, _mm256_cvtepi8_epi32(masked)));
      const int count = std::popcount(byte);
      valid_ids += count;
      if (flags == nullptr) continue;
      const __m128i moved_flags = _mm_shuffle_epi8(load_bytes8(valid_flags), places);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(flags + at), _mm_andnot_si128(masked, moved_flags));
      valid_flags += count;
    }
  }
#endif
  for (int64_t position = t; position < length; ++position) {
    ids[position] = -1;
    if (flags != nullptr) flags[position] = false;
  }
  for_each_valid(mask, t, length, [&](int64_t position) SK_INLINE_LAMBDA {
    ids[position] = *valid_ids++;
    if (flags != nullptr) flags[position] = *valid_flags++;
  });
}

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
