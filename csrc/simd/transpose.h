// For AVX2 and vectors of 16 bytes: values of several equally long stretches of memory side by side, one stretch per
// lane.
#pragma once

#include "vec.h"

namespace segkernel {
inline namespace SK_VEC_NAMESPACE {

// Transposes the 4 x 4 floats in every 16 bytes of four vectors.
SK_INLINE void transpose4(Vec (&v)[4]) {
#if defined(__SSE2__)
  const auto low01 = SK_X86(unpacklo_ps)(v[0].v, v[1].v);
  const auto low23 = SK_X86(unpacklo_ps)(v[2].v, v[3].v);
  const auto high01 = SK_X86(unpackhi_ps)(v[0].v, v[1].v);
  const auto high23 = SK_X86(unpackhi_ps)(v[2].v, v[3].v);
  v[0].v = SK_X86(shuffle_ps)(low01, low23, _MM_SHUFFLE(1, 0, 1, 0));
  v[1].v = SK_X86(shuffle_ps)(low01, low23, _MM_SHUFFLE(3, 2, 3, 2));
  v[2].v = SK_X86(shuffle_ps)(high01, high23, _MM_SHUFFLE(1, 0, 1, 0));
  v[3].v = SK_X86(shuffle_ps)(high01, high23, _MM_SHUFFLE(3, 2, 3, 2));
#else
  const Vec rows[4] = {v[0], v[1], v[2], v[3]};
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) v[i].v[j] = rows[j].v[i];
  }
#endif
}

// Lane l of `steps[j]` becomes values[stride * l + j].
SK_INLINE void load_transposed(const float* values, int64_t stride, Vec (&steps)[4]) {
  for (int i = 0; i < 4; ++i) {
#if defined(__AVX2__)
    steps[i].v = _mm256_loadu2_m128(values + stride * (4 + i), values + stride * i);
#else
    steps[i] = Vec::load(values + stride * i);
#endif
  }
  transpose4(steps);
}
// The inverse for all stretches of a block of 64: values[kSteps * l + j] becomes lane l of step j.
constexpr int kSteps = 64 / Vec::kLanes;
SK_INLINE void store_transposed(Vec (&steps)[kSteps / 4][4], float* values) {
  for (int j = 0; j < kSteps / 4; ++j) transpose4(steps[j]);
#if defined(__AVX2__)
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(values + 8 * i, _mm256_permute2f128_ps(steps[0][i].v, steps[1][i].v, 0x20));
    _mm256_storeu_ps(values + 8 * (4 + i), _mm256_permute2f128_ps(steps[0][i].v, steps[1][i].v, 0x31));
  }
#else
  for (int j = 0; j < kSteps / 4; ++j) {
    for (int i = 0; i < 4; ++i) steps[j][i].store(values + kSteps * i + 4 * j);
  }
#endif
}

// The word's kLanes equal parts, the lowest in the first lane.
SK_INLINE Vec::Integers split_word(uint64_t word) {
#if defined(__AVX2__)
  return reinterpret_cast<Vec::Integers>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(word))));
#else
  Vec::Halves parts;
  memcpy(&parts, &word, sizeof(word));
  return __builtin_convertvector(parts, Vec::Integers);
#endif
}

// Lane l moves to lane l + 1; the first lane becomes `first`: 1 2 3 4 -> first 1 2 3.
SK_INLINE Vec shift_up(Vec lanes, float first) {
#if defined(__AVX2__)
  const __m256 moved = _mm256_permutevar8x32_ps(lanes.v, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
  return {_mm256_blend_ps(moved, _mm256_set1_ps(first), 1)};
#else
  Vec moved;
  for (int l = Vec::kLanes - 1; l > 0; --l) moved.v[l] = lanes.v[l - 1];
  moved.v[0] = first;
  return moved;
#endif
}

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
