// The Schmitt trigger: +1 above `high`, -1 below `low`, in between the state holds or, without hold, is 0.
#pragma once

#include <cstdint>

#include "../floats.h"

namespace segkernel {

// A NaN reward fails both comparisons, so it counts as "in between".
template <class C>
SK_HOST_DEVICE inline int schmitt_step(int state, C reward, C low, C high, bool hold) {
  return reward > high ? 1 : reward < low ? -1 : hold ? state : 0;
}

}  // namespace segkernel
