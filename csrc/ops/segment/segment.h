// Segments of token rewards: where one starts, what its rewards reduce to, what its sign is, which tokens are kept.
#pragma once

#include <cstdint>
#include <limits>

#include "../../core/dtypes.h"
#include "../../core/inline.h"
#include "../detect_pivots/detect_pivots.h"
#include "../hysteresis/hysteresis.h"

namespace segkernel {

enum class Reduce : int { sum, mean, last, max, min };

// Calls `body` with the reduction as its template argument.
template <class Body>
auto dispatch_reduce(Reduce reduce, const Body& body) {
  if (reduce == Reduce::mean) return body.template operator()<Reduce::mean>();
  if (reduce == Reduce::last) return body.template operator()<Reduce::last>();
  if (reduce == Reduce::max) return body.template operator()<Reduce::max>();
  if (reduce == Reduce::min) return body.template operator()<Reduce::min>();
  return body.template operator()<Reduce::sum>();
}

// A segment starts at a row's first valid token, at a pivot, and where the trigger's state changes. `segment` run
// without pivots has an infinite threshold; run without a trigger, infinite low and high, so that no state changes.
template <class C>
SK_HOST_DEVICE inline bool starts_segment(bool first, C reward, C previous, C pivot_threshold, int state,
                                          int previous_state) {
  return first | is_pivot(reward, previous, pivot_threshold) | (state != previous_state);
}

// Folds one more token of the same segment; NaN rewards stay NaN. `C` is a scalar or a vector of the compilers'
// extension. Which of two rewards is larger is unpredictable, so the condition is computed without short-circuit and
// selects.
template <Reduce kReduce, class C>
SK_INLINE C fold(C accumulated, C reward) {
  if constexpr (kReduce == Reduce::last) return reward;
  if constexpr (kReduce == Reduce::sum || kReduce == Reduce::mean) return accumulated + reward;
  if constexpr (kReduce == Reduce::max) {
    return (accumulated > reward) | (accumulated != accumulated) ? accumulated : reward;
  }
  return (accumulated < reward) | (accumulated != accumulated) ? accumulated : reward;
}

// Identity element of the reduction: -0.0 for sums, so that a sum of -0.0 stays -0.0. `last` has no identity element.
template <Reduce kReduce, class C>
SK_HOST_DEVICE inline C fold_identity() {
  constexpr C kInfinity = std::numeric_limits<C>::infinity();
  return kReduce == Reduce::max ? -kInfinity : kReduce == Reduce::min ? kInfinity : -C{0};
}

template <Reduce kReduce, class C>
SK_INLINE C finish(C accumulated, int length) {
  return kReduce == Reduce::mean ? accumulated / static_cast<C>(length) : accumulated;
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
