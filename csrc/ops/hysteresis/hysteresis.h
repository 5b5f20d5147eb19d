// The Schmitt trigger: +1 above `high`, -1 below `low`, in between the state holds or, without hold, is 0.
#pragma once

#include <cstdint>

#include "../../core/dtypes.h"

namespace segkernel {

// A NaN reward is neither, so it counts as "in between".
template <class C>
SK_HOST_DEVICE inline bool is_above(C reward, C high) {
  return reward > high;
}
template <class C>
SK_HOST_DEVICE inline bool is_below(C reward, C low) {
  return reward < low;
}

// Written without branches: which side of a threshold a reward falls on is as good as random.
template <class C>
SK_HOST_DEVICE inline int schmitt_step(int state, C reward, C low, C high, bool hold) {
  const int event = is_above(reward, high) - is_below(reward, low);
  return event | (state & -static_cast<int>(hold & (event == 0)));
}

// What tokens make of the state that comes in is a value, too: the state that goes out, or kUnchanged. `schmitt_step`
// started in kUnchanged gives it, and transitions compose associatively, which is what lets a scan be parallel.
constexpr int kUnchanged = 2;

SK_HOST_DEVICE inline int then_transition(int state_or_earlier, int later) {
  return later == kUnchanged ? state_or_earlier : later;
}

}  // namespace segkernel
