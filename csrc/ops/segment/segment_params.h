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
  bool use_trigger;
  C pivot_threshold, low, high, baseline;
  int initial;
  bool hold;
  bool want_mask;
  int sequence_sign;
  bool keep_neutral;
};

template <class C>
struct SegmentRules {
  static constexpr C kInfinity = std::numeric_limits<C>::infinity();

  PerRow<C> pivot_thresholds;
  bool use_trigger;
  PerRow<C> deltas;
  PerRow<C> baselines;
  PerRow<int8_t> initials;
  bool hold;
  bool want_mask;
  PerRow<double> sequence_signs;
  bool keep_neutral;

  SK_HOST_DEVICE SegmentRule<C> operator[](int64_t b) const {
    const C baseline = baselines[b];
    return {
        .use_trigger = use_trigger,
        .pivot_threshold = pivot_thresholds[b],
        .low = use_trigger ? baseline - deltas[b] : -kInfinity,
        .high = use_trigger ? baseline + deltas[b] : kInfinity,
        .baseline = baseline,
        .initial = use_trigger ? initials[b] : 0,
        .hold = use_trigger ? hold : true,
        .want_mask = want_mask,
        .sequence_sign = sign_of(sequence_signs[b]),
        .keep_neutral = keep_neutral,
    };
  }
};

// One row's outputs. `ids` and `mask` (or null) have one entry per position, the others room for `capacity` segments.
struct SegmentRowOut {
  int32_t* ids;
  int32_t* lengths;
  float* rewards;
  int8_t* signs;
  bool* mask;
  int64_t capacity;
};

// `mask` is null when none is wanted.
struct SegmentOut {
  int32_t* ids;
  int32_t* counts;
  int32_t* lengths;
  float* rewards;
  int8_t* signs;
  bool* mask;
  bool packed;
  int64_t capacity;  // S of padded rows; a packed row has room for as many segments as tokens

  SK_HOST_DEVICE SegmentRowOut row(int64_t b, const Row& row) const {
    const int64_t first = packed ? row.begin : b * capacity;
    return {ids + row.begin,
            lengths + first,
            rewards + first,
            signs + first,
            mask == nullptr ? nullptr : mask + row.begin,
            packed ? row.length : capacity};
  }
};

}  // namespace segkernel
