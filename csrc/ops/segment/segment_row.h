// `segment` along one row: the scalar definition, in a single pass over the tokens. It serves float64 rewards; the
// vectorized kernels are tested against it.
#pragma once

#include <type_traits>

#include "segment_params.h"

namespace segkernel {

// condition ? a : b as bit operations, since compilers make a branch of it for floats.
template <class C>
inline C select(bool condition, C a, C b) {
  using Bits = std::conditional_t<sizeof(C) == sizeof(int64_t), int64_t, int32_t>;
  using Values __attribute__((vector_size(16))) = C;
  using Masks __attribute__((vector_size(16))) = Bits;
  const Masks of_a = Masks{} - static_cast<Bits>(condition);
  const auto selected = ((Masks)(Values{a}) & of_a) | ((Masks)(Values{b}) & ~of_a);
  return ((Values)selected)[0];
}

// The loss mask of the row's tokens, from the signs of their segments.
template <class C>
SK_INLINE void mask_by_signs(const SegmentRowOut& out, int64_t length, const SegmentRule<C>& rule) {
  for (int64_t t = 0; t < length; ++t) {
    out.mask[t] = out.ids[t] >= 0 && keeps(out.signs[out.ids[t]], rule.sequence_sign, rule.keep_neutral);
  }
}

// Returns the number of segments. `out` has room for as many segments as tokens; entries past the count are unchanged.
//
// The running segment's length, reward and sign are stored at every token instead of when the segment ends: ends are
// unpredictable, and a mispredicted branch costs more than a store to a cached line.
template <Reduce kReduce, class T, class C = compute_t<T>>
int32_t segment_row(const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                    const SegmentRowOut& out) {
  int32_t segment = -1;
  int32_t segment_length = 0;
  int state = rule.initial;
  C previous = 0;
  C accumulated = 0;
  for (int64_t t = 0; t < length; ++t) {
    out.ids[t] = -1;
    if (!is_valid(mask, t)) continue;
    const C reward = widen(rewards[t]);
    const int next = schmitt_step(state, reward, rule.low, rule.high, rule.hold);
    const bool starts = starts_segment(segment < 0, reward, previous, rule.pivot_threshold, next, state);
    segment += starts;
    segment_length = (segment_length & -static_cast<int32_t>(!starts)) + 1;
    accumulated = select(starts, reward, fold<kReduce>(accumulated, reward));
    state = next;
    previous = reward;
    const C reduced = finish<kReduce>(accumulated, segment_length);
    out.ids[t] = segment;
    out.lengths[segment] = segment_length;
    out.rewards[segment] = static_cast<float>(reduced);
    out.signs[segment] = static_cast<int8_t>(rule.use_trigger ? state : sign_of(reduced - rule.baseline));
  }
  if (out.mask != nullptr) mask_by_signs(out, length, rule);
  return segment + 1;
}

}  // namespace segkernel
