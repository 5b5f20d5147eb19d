// Bitmasks of 64 tokens, one bit per token, the first token in the lowest bit: comparisons to bits, bits to bytes and
// back. Examples are written with the lowest bit or byte first.
#pragma once

#include <array>

#include "vec.h"

namespace segkernel {
inline namespace SK_VEC_NAMESPACE {

constexpr int kWordBits = 64;
constexpr uint64_t kLanesMask = (uint64_t{1} << Vec::kLanes) - 1;

// Movemask: one bit per lane of a comparison, whose lanes are 0 or -1. Lanes 0, -1, -1, 0 -> 0110.
SK_INLINE uint64_t movemask(Vec::Integers lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(lanes));
#elif defined(__AVX2__)
  return static_cast<uint8_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(lanes)));
#elif defined(__SSE2__)
  return static_cast<uint8_t>(_mm_movemask_ps(reinterpret_cast<__m128>(lanes)));
#else
  const Vec::Words bits = reinterpret_cast<Vec::Words>(lanes) & Vec::Words{1, 2, 4, 8};
#if defined(__ARM_NEON)
  return vaddvq_u32(bits);
#else
  return bits[0] | bits[1] | bits[2] | bits[3];
#endif
#endif
}

// One bit per lane: a < b, false for NaN.
SK_INLINE uint64_t less(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
#else
  return movemask(a.v < b.v);
#endif
}

// The bits of 64 tokens: condition(i) returns those of the kLanes tokens from token i on.
template <class Condition>
SK_INLINE uint64_t bits_where(const Condition& condition) {
  uint64_t bits = 0;
  for (int i = 0; i < kWordBits; i += Vec::kLanes) bits |= condition(i) << i;
  return bits;
}

// 1 in every byte that is not 0: adding 7f to a byte's lower bits carries into its highest, which may be set already.
SK_INLINE uint64_t one_if_nonzero(uint64_t bytes) {
  constexpr uint64_t kLower = 0x7f7f7f7f7f7f7f7f;
  return ((((bytes & kLower) + kLower) | bytes) >> 7) & 0x0101010101010101;
}

// The lowest eight bits as eight bytes of 0 or 1.
SK_INLINE uint64_t spread_bits(uint64_t bits) {
  return one_if_nonzero(((bits & 0xff) * 0x0101010101010101) & 0x8040201008040201);
}

#if defined(__AVX2__)
// The lower (0) or upper (1) 32 bits as bytes of 0 or -1.
SK_INLINE __m256i spread_half(uint64_t bits, int half) {
  const __m256i byte_of_each =
      _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of_each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i word = _mm256_set1_epi32(static_cast<int32_t>(bits >> 32 * half));
  return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(word, byte_of_each), bit_of_each), bit_of_each);
}
#endif

// A bit for each of 64 bytes that is not 0: 01 00 02 01 -> 1011.
SK_INLINE uint64_t bits_of_bytes(const bool* bytes) {
  uint64_t bits = 0;
#if defined(__AVX512F__)
  const __m512i values = _mm512_loadu_si512(bytes);
  bits = _mm512_test_epi8_mask(values, values);
#elif defined(__AVX2__)
  for (int i = 0; i < kWordBits; i += 32) {
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i));
    const __m256i is_zero = _mm256_cmpeq_epi8(values, _mm256_setzero_si256());
    bits |= uint64_t{~static_cast<uint32_t>(_mm256_movemask_epi8(is_zero))} << i;
  }
#else
  for (int i = 0; i < kWordBits; i += 8) {
    uint64_t eight;
    memcpy(&eight, bytes + i, sizeof(eight));
    // Moves the lowest bit of byte k to bit 56 + k.
    bits |= (one_if_nonzero(eight) * 0x0102040810204080) >> 56 << i;
  }
#endif
  return bits;
}

// Bytes of 0 or 1: 1011 -> 01 00 01 01.
SK_INLINE void store_bytes(uint64_t bits, bool* bytes) {
#if defined(__AVX512F__)
  _mm512_storeu_si512(bytes, _mm512_maskz_set1_epi8(bits, 1));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    const __m256i half = _mm256_and_si256(spread_half(bits, i), _mm256_set1_epi8(1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes) + i, half);
  }
#else
  for (int i = 0; i < kWordBits; i += 8) {
    const uint64_t eight = spread_bits(bits >> i);
    memcpy(bytes + i, &eight, sizeof(eight));
  }
#endif
}

// Bytes of 1 where `positive` is set, -1 where `negative` is, 0 elsewhere.
SK_INLINE void store_signs(uint64_t positive, uint64_t negative, int8_t* signs) {
#if defined(__AVX512F__)
  _mm512_storeu_si512(signs, _mm512_mask_set1_epi8(_mm512_maskz_set1_epi8(positive, 1), negative, -1));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    const __m256i half = _mm256_sub_epi8(spread_half(negative, i), spread_half(positive, i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(signs) + i, half);
  }
#else
  for (int i = 0; i < kWordBits; i += 8) {
    const uint64_t eight = spread_bits(positive >> i) | spread_bits(negative >> i) * 0xff;
    memcpy(signs + i, &eight, sizeof(eight));
  }
#endif
}

// Look-up tables by byte, eight bytes per entry.
template <class Entry>
constexpr auto byte_table(Entry entry) {
  std::array<uint64_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) table[byte] = entry(byte);
  return table;
}
// The number of bits set up to each bit: 1011 -> 1, 1, 2, 3.
constexpr auto kBitCounts = byte_table([](unsigned byte) {
  uint64_t counts = 0;
  for (unsigned i = 0, count = 0; i < 8; ++i) counts |= uint64_t{count += byte >> i & 1} << 8 * i;
  return counts;
});
// The indices of the set bits, then zeros: 1011 -> 0, 2, 3, 0.
constexpr auto kSetBits = byte_table([](unsigned byte) {
  uint64_t indices = 0;
  for (unsigned i = 0, count = 0; i < 8; ++i) {
    if ((byte >> i & 1) != 0) indices |= uint64_t{i} << 8 * count++;
  }
  return indices;
});

// For each bit, `base` and the number of bits set up to it.
SK_INLINE void store_bit_counts(uint64_t bits, int32_t base, int32_t* counts) {
  for (int i = 0; i < kWordBits; i += 8) {
    const uint64_t sums = kBitCounts[static_cast<uint8_t>(bits >> i)];
#if defined(__AVX2__)
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(sums)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(counts + i), _mm256_add_epi32(wide, _mm256_set1_epi32(base)));
#else
    for (int k = 0; k < 8; ++k) counts[i + k] = base + static_cast<int32_t>(sums >> 8 * k & 0xff);
#endif
    base += static_cast<int32_t>(sums >> 56);
  }
}

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
