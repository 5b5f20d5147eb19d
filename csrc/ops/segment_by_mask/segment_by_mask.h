// Segmentation by a mask: segments are the runs of valid positions, such as the turns of a dialogue.
#pragma once

#include "../../core/rows.h"

namespace segkernel {

// Whether a run starts at position `t` of a row. `mask` as for `is_valid`.
SK_HOST_DEVICE inline bool starts_run(const bool* mask, int64_t t) {
  return is_valid(mask, t) && (t == 0 || !is_valid(mask, t - 1));
}

}  // namespace segkernel
