// `segment` along one row on the host: a single pass.
#pragma once

#include <type_traits>

#include "segment_params.h"

namespace segkernel {

// condition ? a : b without a branch, which floats otherwise become.
template <class C>
inline C select(bool condition, C a, C b) {
  using Bits = std::conditional_t<sizeof(C) == sizeof(int64_t), int64_t, int32_t>;
  using Values __attribute__((vector_size(16))) = C;
  using Masks __attribute__((vector_size(16))) = Bits;
  const Masks of_a = Masks{} - static_cast<Bits>(condition);
  const auto selected = ((Masks)(Values{a}) & of_a) | ((Masks)(Values{b}) & ~of_a);
  return ((Values)selected)[0];
}

// Returns the number of segments. Entries past it are left as they are.
//
// The running segment's length, reward and sign are stored at every token instead of when the segment closes: where
// segments end is as good as random, and a mispredicted branch costs more than a store into a line already in cache.
template <Reduce kReduce, bool kMasked, class T, class C = compute_t<T>>
int32_t segment_row(const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule, SegmentRowOut out) {
  int32_t segment = -1;
  int32_t segment_length = 0;
  int state = rule.initial;
  C previous = 0;
  C accumulated = 0;
  for (int64_t t = 0; t < length; ++t) {
    if (kMasked && !mask[t]) {
      out.ids[t] = -1;
      if (rule.want_mask) out.mask[t] = false;
      continue;
    }
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
  return segment + 1;
}

}  // namespace segkernel
