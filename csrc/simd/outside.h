// Which of 64 values lie outside of a range, a bit for each.
#pragma once

#include <cstdint>

namespace segkernel {

struct Outside {
  uint64_t above, below;
};

}  // namespace segkernel
