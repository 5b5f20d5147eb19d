// A block of 64 floats as equally long stretches side by side, one stretch per lane.
#pragma once

#include <utility>

#include "vec.h"

namespace segkernel {
inline namespace SK_VEC_NAMESPACE {

constexpr int kSteps = 64 / Vec::kLanes;  // floats per stretch

// Lane l becomes lane index(l) of a followed by b.
template <class Index, size_t... l>
SK_INLINE Vec shuffle(Vec a, Vec b, Index index, std::index_sequence<l...>) {
#if defined(__clang__)
  return {__builtin_shufflevector(a.v, b.v, index(l)...)};
#else
  return {__builtin_shuffle(a.v, b.v, Vec::Integers{index(l)...})};
#endif
}
template <class Index>
SK_INLINE Vec shuffle(Vec a, Vec b, Index index) {
  return shuffle(a, b, index, std::make_index_sequence<Vec::kLanes>());
}

// Lane l moves to lane l + 1; the first lane becomes `first`: 1 2 3 4 -> first 1 2 3.
SK_INLINE Vec shift_up(Vec lanes, float first) {
  return shuffle(lanes, Vec::broadcast(first), [](int l) { return l == 0 ? Vec::kLanes : l - 1; });
}

// Moves the elements with an even index to the front. log2(kSteps) times: element kSteps * l + j becomes lane l of
// step j. 0 1 2 3 4 5 6 7 -> 0 2 4 6 1 3 5 7 -> 0 4 1 5 2 6 3 7.
SK_INLINE void to_stretches(Vec (&v)[kSteps]) {
  for (int times = 1; times < kSteps; times *= 2) {
    Vec moved[kSteps];
    for (int i = 0; i < kSteps / 2; ++i) {
      moved[i] = shuffle(v[2 * i], v[2 * i + 1], [](int l) { return 2 * l; });
      moved[kSteps / 2 + i] = shuffle(v[2 * i], v[2 * i + 1], [](int l) { return 2 * l + 1; });
    }
    for (int i = 0; i < kSteps; ++i) v[i] = moved[i];
  }
}

// The inverse.
SK_INLINE void from_stretches(Vec (&v)[kSteps]) {
  for (int times = 1; times < kSteps; times *= 2) {
    Vec moved[kSteps];
    for (int i = 0; i < kSteps / 2; ++i) {
      const Vec a = v[i], b = v[kSteps / 2 + i];
      moved[2 * i] = shuffle(a, b, [](int l) { return l / 2 + l % 2 * Vec::kLanes; });
      moved[2 * i + 1] = shuffle(a, b, [](int l) { return (l + Vec::kLanes) / 2 + l % 2 * Vec::kLanes; });
    }
    for (int i = 0; i < kSteps; ++i) v[i] = moved[i];
  }
}

// The word's kLanes equal parts, the lowest in the first lane.
SK_INLINE Vec::Integers split_word(uint64_t word) {
#if defined(__AVX512F__)
  constexpr uint64_t kNibbles = 0x0f0f0f0f0f0f0f0f;
  const __m128i bytes = _mm_set_epi64x(_pdep_u64(word >> 32, kNibbles), _pdep_u64(word, kNibbles));
  return reinterpret_cast<Vec::Integers>(_mm512_cvtepu8_epi32(bytes));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec::Integers>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(word))));
#else
  Vec::Halves parts;
  memcpy(&parts, &word, sizeof(word));
  return __builtin_convertvector(parts, Vec::Integers);
#endif
}

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
