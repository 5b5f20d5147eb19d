// Segments of token rewards: where one starts, what its sign is, which tokens are kept.
#pragma once

#include "../../core/inline.h"
#include "../../core/reduce.h"
#include "../detect_pivots/detect_pivots.h"
#include "../hysteresis/hysteresis.h"

namespace segkernel {

// A segment starts at a row's first valid token, at a pivot, and where the trigger's state changes. `segment` run
// without pivots has an infinite threshold; run without a trigger, infinite low and high, so that no state changes.
template <class C>
SK_HOST_DEVICE inline bool starts_segment(bool first, C reward, C previous, C pivot_threshold, int state,
                                          int previous_state) {
  return first | is_pivot(reward, previous, pivot_threshold) | (state != previous_state);
}

template <class C>
SK_INLINE int sign_of(C value) {
  return (value > 0) - (value < 0);
}

// The loss mask: keep what agrees with the sequence's sign; neutral segments only on request.
SK_INLINE bool keeps(int segment_sign, int sequence_sign, bool keep_neutral) {
  return segment_sign == 0 ? keep_neutral : segment_sign == sequence_sign;
}

}  // namespace segkernel
