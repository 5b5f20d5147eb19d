// `segment` along one row on the host: a single pass.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "../rows.h"
#include "segment.h"

namespace segkernel {

// What the user asked for, one row's values.
template <class C>
struct SegmentRule {
  bool use_trigger;
  C pivot_threshold, low, high, baseline;
  int initial;
  bool hold;
  bool want_mask;
  int sequence_sign;
  bool keep_neutral;

  static SegmentRule make(const C* pivot_threshold, const C* delta, C baseline, int initial, bool hold,
                          const int* sequence_sign, bool keep_neutral) {
    constexpr C infinity = std::numeric_limits<C>::infinity();
    return {
        .use_trigger = delta != nullptr,
        .pivot_threshold = pivot_threshold ? *pivot_threshold : infinity,
        .low = delta ? baseline - *delta : -infinity,
        .high = delta ? baseline + *delta : infinity,
        .baseline = baseline,
        .initial = delta ? initial : 0,
        .hold = delta ? hold : true,
        .want_mask = sequence_sign != nullptr,
        .sequence_sign = sequence_sign ? *sequence_sign : 0,
        .keep_neutral = keep_neutral,
    };
  }
};

// One row's outputs. `ids` and `mask` have one entry per position, the others room for one segment per position.
struct SegmentRowOut {
  int32_t* ids;
  int32_t* lengths;
  float* rewards;
  int8_t* signs;
  bool* mask;
};

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
  if (rule.want_mask) {
    for (int64_t t = 0; t < length; ++t) {
      if (is_valid(mask, t)) out.mask[t] = keeps(out.signs[out.ids[t]], rule.sequence_sign, rule.keep_neutral);
    }
  }
  return segment + 1;
}

// The run-time choice of the template above, made once per row.
template <class T, class C = compute_t<T>>
int32_t segment_row(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                    SegmentRowOut out) {
  const auto run = [&]<Reduce kReduce>() {
    return mask ? segment_row<kReduce, true>(rewards, mask, length, rule, out)
                : segment_row<kReduce, false>(rewards, mask, length, rule, out);
  };
  switch (reduce) {
    case Reduce::mean:
      return run.template operator()<Reduce::mean>();
    case Reduce::last:
      return run.template operator()<Reduce::last>();
    case Reduce::max:
      return run.template operator()<Reduce::max>();
    case Reduce::min:
      return run.template operator()<Reduce::min>();
    default:
      return run.template operator()<Reduce::sum>();
  }
}

// One row into outputs with room for `capacity` segments: zeros past the row's count, segments past the room left out.
template <class T, class C = compute_t<T>>
int32_t segment_row_into(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                         SegmentRowOut out, int64_t capacity) {
  int64_t written;
  int32_t count;
  if (length <= capacity) {
    count = segment_row(reduce, rewards, mask, length, rule, out);
    written = count;
  } else {
    // A row can have as many segments as tokens: with less room than that, it is worked out beside the output.
    std::vector<int32_t> lengths(length);
    std::vector<float> segment_rewards(length);
    std::vector<int8_t> signs(length);
    count = segment_row(reduce, rewards, mask, length, rule,
                        {out.ids, lengths.data(), segment_rewards.data(), signs.data(), out.mask});
    written = std::min<int64_t>(count, capacity);
    std::copy_n(lengths.begin(), written, out.lengths);
    std::copy_n(segment_rewards.begin(), written, out.rewards);
    std::copy_n(signs.begin(), written, out.signs);
  }
  std::fill(out.lengths + written, out.lengths + capacity, 0);
  std::fill(out.rewards + written, out.rewards + capacity, 0.0f);
  std::fill(out.signs + written, out.signs + capacity, int8_t{0});
  return count;
}

}  // namespace segkernel
