// What AVX-512 does with a mask register, for eight lanes and a byte of bits: by tables of 256 entries. No pext and no
// pdep: where AVX2 is the best there is, they may be microcode.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>

#include "inline.h"

namespace segkernel {

// Of every byte, eight bytes.
template <class Of>
struct alignas(64) TableOfEights {
  std::array<std::array<int8_t, 8>, 256> at{};

  constexpr explicit TableOfEights(Of of) {
    for (unsigned bits = 0; bits < 256; ++bits) {
      for (unsigned lane = 0; lane < 8; ++lane) at[bits][lane] = static_cast<int8_t>(of(bits, lane));
    }
  }
  SK_INLINE __m128i bytes(uint8_t bits) const {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at[bits].data()));
  }
  SK_INLINE __m256i lanes(uint8_t bits) const { return _mm256_cvtepi8_epi32(bytes(bits)); }
};

// The number of bits up to the lane's, the lane's own among them.
constexpr TableOfEights kBitsUpTo([](unsigned bits, unsigned lane) {
  int count = 0;
  for (unsigned i = 0; i <= lane; ++i) count += (bits >> i) & 1;
  return count;
});

// The places of the bits, from the lowest on; past them, 0.
constexpr TableOfEights kBitPlaces([](unsigned bits, unsigned lane) {
  unsigned seen = 0;
  for (unsigned i = 0; i < 8; ++i) {
    if (((bits >> i) & 1) != 0 && seen++ == lane) return i;
  }
  return 0u;
});

// A byte per bit: all ones or all zeros.
SK_INLINE __m256i bytes_where(uint32_t bits) {
  const __m256i its_byte =
      _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i its_bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i all = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(bits)), its_byte);
  return _mm256_cmpeq_epi8(_mm256_and_si256(all, its_bit), its_bit);
}

}  // namespace segkernel
