// Bitmasks of 64 tokens, one bit per token, the first token in the lowest bit: comparisons to bits, bits to bytes and
// back, stream compaction by bits. Examples are written with the lowest bit, byte or lane first.
#pragma once

#include <bit>

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

// One bit per lane: a > b.
SK_INLINE uint64_t greater(Vec::Integers a, Vec::Integers b) {
#if defined(__AVX512F__)
  return _mm512_cmpgt_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
#else
  return movemask(a > b);
#endif
}

// The bits of 64 tokens: condition(i) returns those of the kLanes tokens from token i on.
template <class Condition>
SK_INLINE uint64_t bits_where(const Condition& condition) {
  uint64_t bits = 0;
  for (int i = 0; i < kWordBits; i += Vec::kLanes) bits |= condition(i) << i;
  return bits;
}

constexpr uint64_t kOnes = 0x0101010101010101;

// 1 in every byte that is not 0: adding 7f to a byte's lower bits carries into its highest, which may be set already.
SK_INLINE uint64_t one_if_nonzero(uint64_t bytes) {
  constexpr uint64_t kLower = 0x7f7f7f7f7f7f7f7f;
  return ((((bytes & kLower) + kLower) | bytes) >> 7) & kOnes;
}

// The lowest eight bits as eight bytes of 0 or 1.
SK_INLINE uint64_t spread_bits(uint64_t bits) {
#if defined(__BMI2__)
  return _pdep_u64(bits, kOnes);
#else
  return one_if_nonzero(((bits & 0xff) * kOnes) & 0x8040201008040201);
#endif
}

// Deposit: the lowest bits at the set bits of `places`, in their order. 110, 01011 -> 01010.
SK_INLINE uint64_t deposit_bits(uint64_t bits, uint64_t places) {
#if defined(__BMI2__)
  return _pdep_u64(bits, places);
#else
  if (places == ~uint64_t{0}) return bits;
  uint64_t deposited = 0;
  for (; places != 0; places &= places - 1, bits >>= 1) deposited |= (places & -places) & -(bits & 1);
  return deposited;
#endif
}

// The lowest `count` bits, all 64 if there are fewer; `count` is at least 1.
SK_INLINE uint64_t first_bits(int64_t count) { return ~uint64_t{0} >> (count < kWordBits ? kWordBits - count : 0); }

// A bit for each of the first 64 bytes that is not 0: 01 00 02 01 -> 1011.
SK_INLINE uint64_t bits_of_bytes(const bool* bytes, int64_t length = kWordBits) {
  bool last[kWordBits]{};
  if (length < kWordBits) {
    memcpy(last, bytes, static_cast<size_t>(length));
    bytes = last;
  }
  uint64_t bits = 0;
#if defined(__AVX512F__)
  const __m512i values = _mm512_loadu_si512(bytes);
  bits = _mm512_test_epi8_mask(values, values);
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

// Bytes of 1 where `positive` is set, -1 where `negative` is, 0 elsewhere.
SK_INLINE void store_signs(uint64_t positive, uint64_t negative, int8_t* signs) {
#if defined(__AVX512F__)
  _mm512_storeu_si512(signs, _mm512_mask_set1_epi8(_mm512_maskz_set1_epi8(positive, 1), negative, -1));
#else
  for (int i = 0; i < kWordBits; i += 8) {
    const uint64_t eight = spread_bits(positive >> i) | spread_bits(negative >> i) * 0xff;
    memcpy(signs + i, &eight, sizeof(eight));
  }
#endif
}

// Inclusive prefix sum of bits: for each bit, `base` and the number of bits set up to it; -1 where `valid` is not set.
// A product with kOnes is the prefix sum of eight bytes: 01 00 01 01 -> 01 01 02 03.
SK_INLINE void store_bit_counts(uint64_t bits, uint64_t valid, int32_t base, int32_t* counts) {
  int8_t masked[kWordBits];
  store_signs(0, ~valid, masked);
  for (int i = 0; i < kWordBits; i += 8) {
    const uint64_t sums = spread_bits(bits >> i) * kOnes;
#if defined(__AVX2__)
    const __m256i eight =
        _mm256_add_epi32(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(sums))), _mm256_set1_epi32(base));
    const __m256i minus_one = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(masked + i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(counts + i), _mm256_or_si256(eight, minus_one));
#else
    for (int k = 0; k < 8; ++k) counts[i + k] = (base + static_cast<int32_t>(sums >> 8 * k & 0xff)) | masked[i + k];
#endif
    base += static_cast<int32_t>(sums >> 56);
  }
}

// Stream compaction: stores the lanes at the set bits of `bits`, moved together, and returns their number. Writes
// kLanes entries; those past the number are unspecified. a b c d, 0110 -> b c.
template <class E>
SK_INLINE int compress_store(Vec x, uint64_t bits, E* to) {
  static_assert(sizeof(E) == sizeof(float));
  const int count = std::popcount(bits & kLanesMask);
#if defined(__AVX512F__)
  x = {_mm512_maskz_compress_ps(static_cast<__mmask16>(bits), x.v)};
#elif defined(__AVX2__)
  const uint64_t lanes = _pext_u64(0x0706050403020100, spread_bits(bits) * 0xff);
  x = {_mm256_permutevar8x32_ps(x.v, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(lanes))))};
#else
  if (count < Vec::kLanes) {
    for (int l = 0, k = 0; l < Vec::kLanes; k += bits >> l & 1, ++l) x.v[k] = x.v[l];
  }
#endif
  memcpy(to, &x.v, sizeof(x.v));
  return count;
}

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
