// Loops over rows on torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace segkernel {

// Calls body(begin, end) for ranges that cover the rows [0, count). `work` is the number of elements of all rows; small
// inputs stay on the calling thread.
template <class Body>
void for_each_range(int64_t count, int64_t work, const Body& body) {
  constexpr int64_t kWorkPerTask = 16384;  // waking a thread costs more than processing fewer elements
  const int64_t grain = work <= kWorkPerTask ? count : 1 + count * kWorkPerTask / work;
  if (count <= grain) return body(0, count);
  torch::stable::parallel_for(0, count, grain, body);
}

// Calls body(row) for every row. Each row is computed by one thread, so results do not depend on the thread count.
template <class Body>
void for_each_row(int64_t count, int64_t work, const Body& body) {
  for_each_range(count, work, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

}  // namespace segkernel
