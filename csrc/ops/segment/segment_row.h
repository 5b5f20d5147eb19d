// `segment` along one row: the scalar definition, in a single pass over the tokens. It serves float64 rewards; the
// vectorized kernels are tested against it.
#pragma once

#include "segment_params.h"

namespace segkernel {

// The loss mask of the row's tokens, from the signs of their segments.
template <class C>
SK_INLINE void mask_by_signs(const SegmentOut& out, int64_t length, const SegmentRule<C>& rule) {
  for (int64_t t = 0; t < length; ++t) {
    out.mask[t] = out.ids[t] >= 0 && keeps(out.signs[out.ids[t]], rule.sequence_sign, rule.keep_neutral);
  }
}

// Returns the number of segments; entries past it are unchanged.
//
// The running segment's length, reward and sign are stored at every token instead of when the segment ends: ends are
// unpredictable, and a mispredicted branch costs more than a store to a cached line.
template <Reduce kReduce, class T, class C = compute_t<T>>
int32_t segment_row(const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                    const SegmentOut& out) {
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
    segment_length = starts ? 1 : segment_length + 1;
    accumulated = starts ? reward : fold<kReduce>(accumulated, reward);
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
