// The span of valid positions of a row without holes. Most rows have none, and a loop over a span needs no mask.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>

namespace segkernel {

struct ValidSpan {
  int64_t begin, end;
};

// The span from the first to the last valid position, if all positions in between are valid. `mask` as for `is_valid`.
inline std::optional<ValidSpan> span_without_holes(const bool* mask, int64_t length) {
  if (mask == nullptr || length == 0) return ValidSpan{0, length};
  const auto find = [&](int valid, int64_t from) {
    const void* found = std::memchr(mask + from, valid, static_cast<size_t>(length - from));
    return found == nullptr ? length : static_cast<const bool*>(found) - mask;
  };
  const int64_t begin = find(1, 0);
  const int64_t end = find(0, begin);
  if (find(1, end) < length) return std::nullopt;
  return ValidSpan{begin, end};
}

}  // namespace segkernel
