// The Schmitt trigger: +1 above `high`, -1 below `low`, in between the state holds or, without hold, is 0.
#pragma once

#include <cstdint>

#include "../../core/inline.h"

namespace segkernel {

// A NaN reward is neither, so it counts as in between.
template <class C>
SK_INLINE bool is_above(C reward, C high) {
  return reward > high;
}
template <class C>
SK_INLINE bool is_below(C reward, C low) {
  return reward < low;
}

// The scalar definition. Without branches: the side of a threshold that a reward falls on is unpredictable.
template <class C>
SK_INLINE int schmitt_step(int state, C reward, C low, C high, bool hold) {
  const int event = is_above(reward, high) - is_below(reward, low);
  return event | (state & -static_cast<int>(hold & (event == 0)));
}

// The transition function of a run of tokens is a constant state or the identity, kUnchanged: `schmitt_step` from
// kUnchanged computes it. Transitions compose associatively, so the trigger is a parallel scan.
constexpr int kUnchanged = 2;

SK_INLINE int then_transition(int state_or_earlier, int later) {
  return later == kUnchanged ? state_or_earlier : later;
}

}  // namespace segkernel
