// Loops over rows on torch's threads; long rows are divided among the threads.
#pragma once

#include "../core/row_parts.h"
#include "../core/rows.h"
#include "parallel.h"

namespace segkernel {

// Calls body(index) for every index in [0, count), each on one of torch's threads.
struct OnAllThreads {
  static constexpr bool kInParallel = true;

  template <class Body>
  void operator()(int64_t count, const Body& body) const {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) body(index);
    });
  }
};

// Calls body(row, for_each) for every row, with a loop for the parts of the row. A row of several parts that has more
// than a thread's share of all tokens runs before the others, its loop on all threads.
template <class Body>
void for_each_row_in_parts(const Rows& rows, int64_t tokens, const Body& body) {
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const auto is_shared = [&](int64_t length) { return parts_of(length) > 1 && length > tokens / threads; };
  if (parts_of(tokens) > 1) {
    for (int64_t b = 0; b < rows.count; ++b) {
      if (is_shared(rows[b].length)) body(b, OnAllThreads{});
    }
  }
  for_each_row(rows.count, tokens, [&](int64_t b) {
    if (!is_shared(rows[b].length)) body(b, OneAfterTheOther{});
  });
}

}  // namespace segkernel
