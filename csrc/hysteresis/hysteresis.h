// The Schmitt trigger: +1 above `high`, -1 below `low`, in between the state holds or, without hold, is 0.
#pragma once

#include <cstdint>

#include "../floats.h"

namespace segkernel {

// A NaN reward fails both comparisons, so it counts as "in between". Written without branches: which side of a
// threshold a reward falls on is as good as random.
template <class C>
SK_HOST_DEVICE inline int schmitt_step(int state, C reward, C low, C high, bool hold) {
  const int event = (reward > high) - (reward < low);
  return event | (state & -static_cast<int>(hold & (event == 0)));
}

}  // namespace segkernel
