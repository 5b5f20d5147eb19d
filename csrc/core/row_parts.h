// Parts of a long row, which several threads can process. They begin at multiples of kPart, so that padding at the end
// of a row does not move them.
#pragma once

#include <algorithm>
#include <cstdint>

namespace segkernel {

constexpr int64_t kPart = 32768;  // positions

struct Part {
  int64_t begin, end;

  int64_t length() const { return end - begin; }
};

inline int64_t parts_of(int64_t length) { return length <= kPart ? 1 : (length + kPart - 1) / kPart; }

inline Part part_of(int64_t length, int64_t index) { return {index * kPart, std::min(length, (index + 1) * kPart)}; }

// Calls body(index) for every index in [0, count), one after the other.
struct OneAfterTheOther {
  static constexpr bool kInParallel = false;

  template <class Body>
  void operator()(int64_t count, const Body& body) const {
    for (int64_t index = 0; index < count; ++index) body(index);
  }
};

}  // namespace segkernel
