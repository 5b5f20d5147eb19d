// A segmented scan of blocks of 64 values by fours: side by side, sixteen lanes add up the four values of each. What
// the fours of a block come to is 16 values, and of four blocks 64 again.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "../../simd/inline.h"
#include "segment_starts.h"

namespace segkernel {

constexpr int kLanes = 16;
constexpr int kFours = 4;  // a block's vectors; and the values that one level adds up

// A table of a vector's size, from what it holds at each place.
template <class T, int n, class Of>
struct alignas(64) Table {
  std::array<T, n> at{};

  constexpr explicit Table(Of of) {
    for (int i = 0; i < n; ++i) at[static_cast<size_t>(i)] = static_cast<T>(of(i));
  }
  __m512i load() const { return _mm512_load_si512(at.data()); }
};

template <class Of>
constexpr auto lanes_table(Of of) {
  return Table<int32_t, kLanes, Of>(of);
}
template <class Of>
constexpr auto bytes_table(Of of) {
  return Table<uint8_t, kBlock, Of>(of);
}

// For two-source permutations, in which lane 16 is the first of the second source.
constexpr auto kEven = lanes_table([](int i) { return 2 * i; });
constexpr auto kOdd = lanes_table([](int i) { return 2 * i + 1; });
constexpr auto kZipLow = lanes_table([](int i) { return i / 2 + kLanes * (i % 2); });
constexpr auto kZipHigh = lanes_table([](int i) { return kLanes / 2 + i / 2 + kLanes * (i % 2); });

template <class Body>
SK_INLINE void for_vectors(const Body& body) {
  body.template operator()<0>();
  body.template operator()<1>();
  body.template operator()<2>();
  body.template operator()<3>();
}

// Lane i of the result is lane i - d of `values`; the first d lanes are the last of `before`.
template <int d>
SK_INLINE __m512 shift_up(__m512 values, __m512 before) {
  return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(values), _mm512_castps_si512(before), kLanes - d));
}

SK_INLINE __m512 last_lane(__m512 values) { return _mm512_permutexvar_ps(_mm512_set1_epi32(kLanes - 1), values); }

// Two rounds of two-source permutations, pairwise.
SK_INLINE void permute_pairs(__m512 (&v)[kFours], __m512i first, __m512i second) {
  const __m512 first01 = _mm512_permutex2var_ps(v[0], first, v[1]);
  const __m512 second01 = _mm512_permutex2var_ps(v[0], second, v[1]);
  const __m512 first23 = _mm512_permutex2var_ps(v[2], first, v[3]);
  const __m512 second23 = _mm512_permutex2var_ps(v[2], second, v[3]);
  v[0] = _mm512_permutex2var_ps(first01, first, first23);
  v[1] = _mm512_permutex2var_ps(second01, first, second23);
  v[2] = _mm512_permutex2var_ps(first01, second, first23);
  v[3] = _mm512_permutex2var_ps(second01, second, second23);
}

// 64 values, transposed: lane i of vector j becomes the 4 i + j-th, and back.
SK_INLINE void by_fours(__m512 (&v)[kFours]) { permute_pairs(v, kEven.load(), kOdd.load()); }

SK_INLINE void from_fours(__m512 (&v)[kFours]) {
  std::swap(v[1], v[2]);
  permute_pairs(v, kZipLow.load(), kZipHigh.load());
  std::swap(v[1], v[2]);
}

// `fold` where the later value is `joined` to the earlier one; elsewhere the later value. Below it is called a sum.
template <Reduce kFold>
SK_INLINE __m512 fold_joined(__m512 later, __mmask16 joined, __m512 earlier) {
  if constexpr (kFold == Reduce::last) return later;
  if constexpr (kFold == Reduce::sum) return _mm512_mask_add_ps(later, joined, later, earlier);
  // Of a NaN and another, the instructions return the second operand: a later NaN comes through by itself.
  const __mmask16 stays = _mm512_mask_cmp_ps_mask(joined, earlier, earlier, _CMP_UNORD_Q);
  if constexpr (kFold == Reduce::max) later = _mm512_mask_max_ps(later, joined, earlier, later);
  if constexpr (kFold == Reduce::min) later = _mm512_mask_min_ps(later, joined, earlier, later);
  return _mm512_mask_mov_ps(later, stays, earlier);
}

// What `fold` leaves any value as it is with.
template <Reduce kFold>
SK_INLINE __m512 nothing() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  return _mm512_set1_ps(kFold == Reduce::max ? -kInfinity : kFold == Reduce::min ? kInfinity : 0.0f);
}

// The sums inside each four of values as `by_fours` leaves them, given which values go on with the sum before them.
// `through[j]`: the fours whose values up to the j-th do so, back into the four before.
template <Reduce kFold>
struct Fours {
  __mmask16 through[kFours];

  SK_INLINE Fours(__m512 (&v)[kFours], uint64_t goes_on) {
    const auto of_each_four = [&](int j) {
      return static_cast<__mmask16>(_pext_u64(goes_on, uint64_t{0x1111111111111111} << j));
    };
    through[0] = of_each_four(0);
    for (int j = 1; j < kFours; ++j) {
      const __mmask16 joined = of_each_four(j);
      v[j] = fold_joined<kFold>(v[j], joined, v[j - 1]);
      through[j] = through[j - 1] & joined;
    }
  }
};

}  // namespace segkernel
