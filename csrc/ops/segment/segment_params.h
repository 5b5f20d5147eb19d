// Parameters and output pointers of `segment`, for all rows and for one.
#pragma once

#include <cstdint>
#include <limits>

#include "../../core/rows.h"
#include "segment.h"

namespace segkernel {

// One row's. Without pivots the threshold is infinite; without a trigger low and high are, so that no state changes.
template <class C>
struct SegmentRule {
  C pivot_threshold, low, high, baseline;
  int initial, sequence_sign;
  bool use_trigger, hold, keep_neutral;
};

template <class C>
struct SegmentRules {
  static constexpr C kInfinity = std::numeric_limits<C>::infinity();

  PerRow<C> pivot_thresholds, deltas, baselines;
  PerRow<int8_t> initials;
  PerRow<double> sequence_signs;
  bool use_trigger, hold, keep_neutral;

  SK_HOST_DEVICE SegmentRule<C> operator[](int64_t b) const {
    const C baseline = baselines[b];
    return {
        .pivot_threshold = pivot_thresholds[b],
        .low = use_trigger ? baseline - deltas[b] : -kInfinity,
        .high = use_trigger ? baseline + deltas[b] : kInfinity,
        .baseline = baseline,
        .initial = use_trigger ? initials[b] : 0,
        .sequence_sign = sign_of(sequence_signs[b]),
        .use_trigger = use_trigger,
        .hold = hold || !use_trigger,
        .keep_neutral = keep_neutral,
    };
  }
};

// Outputs with one entry per position. A row has at most as many segments as positions: segment k is at position k.
struct SegmentOut {
  int32_t* ids;
  int32_t* lengths;
  float* rewards;
  int8_t* signs;
  bool* mask;  // null when none is wanted

  SK_HOST_DEVICE SegmentOut from(int64_t position) const {
    return {ids + position, lengths + position, rewards + position, signs + position,
            mask == nullptr ? nullptr : mask + position};
  }
};

}  // namespace segkernel
