// Runs of valid positions along one row on the host.
#pragma once

#include "segment_by_mask.h"

namespace segkernel {

// Returns the number of runs.
inline int32_t segment_by_mask_row(const bool* mask, int64_t length, int32_t* ids) {
  int32_t runs = 0;
  for (int64_t t = 0; t < length; ++t) {
    runs += starts_run(mask, t);
    ids[t] = is_valid(mask, t) ? runs - 1 : -1;
  }
  return runs;
}

}  // namespace segkernel
