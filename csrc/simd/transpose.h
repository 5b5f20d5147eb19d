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

// Lane l moves to lane l + 1; the first lane becomes the last of `before`: 1 2 3 4 after 5 6 7 8 -> 8 1 2 3.
SK_INLINE Vec shift_up(Vec before, Vec lanes) {
  return shuffle(before, lanes, [](int l) { return Vec::kLanes - 1 + l; });
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
    for (int i = 0; i < kSteps; ++i) {
      const int odd = i % 2 * Vec::kLanes / 2;
      moved[i] = shuffle(v[i / 2], v[(kSteps + i) / 2], [=](int l) { return odd + l / 2 + l % 2 * Vec::kLanes; });
    }
    for (int i = 0; i < kSteps; ++i) v[i] = moved[i];
  }
}

// The word's kLanes equal parts, the lowest in the first lane.
SK_INLINE Vec::Integers split_word(uint64_t word) {
  const Vec::Words lanes = lane_indices();
  const Vec::Words low = static_cast<uint32_t>(word) - Vec::Words{};
  const Vec::Words high = static_cast<uint32_t>(word >> 32) - Vec::Words{};
  const Vec::Words half = lanes < Vec::kLanes / 2 ? low : high;
  return reinterpret_cast<Vec::Integers>((half >> (lanes * kSteps & 31)) & ((1u << kSteps) - 1));
}

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
