// The rows of logits [..., V] with whatever leading strides, and which of them are to be read.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "../tensors.h"

namespace segkernel {

constexpr int64_t kIgnoredLabel = -100;

// The leading dimensions, flattened in row-major order.
struct Positions {
  std::vector<int64_t> sizes;
  int64_t count = 1;

  explicit Positions(const Tensor& tensor, int64_t dims) {
    for (int64_t d = 0; d < dims; ++d) {
      sizes.push_back(tensor.size(d));
      count *= tensor.size(d);
    }
  }

  // "[b, t]" for error messages.
  std::string name(int64_t index) const {
    std::string text;
    for (size_t d = sizes.size(); d-- > 0;) {
      text = std::to_string(index % sizes[d]) + (text.empty() ? "" : ", ") + text;
      index /= sizes[d];
    }
    return "[" + text + "]";
  }
};

// Addresses of rows by their position. 64-bit throughout.
class LogitRows {
 public:
  explicit LogitRows(const Tensor& logits) : positions(logits, logits.dim() - 1) {
    check(logits.is_cpu(), "logits", "expected a CPU tensor");
    check(logits.dim() >= 1, "logits", "expected [..., V], got a scalar");
    const int64_t last = logits.dim() - 1;
    vocabulary = logits.size(last);
    check(logits.stride(last) == 1 || vocabulary <= 1, "logits", "expected a contiguous last dimension, got stride ",
          logits.stride(last));
    for (int64_t d = 0; d < last; ++d) strides_.push_back(logits.stride(d));
  }

  Positions positions;
  int64_t vocabulary = 0;

  // In elements.
  int64_t offset(int64_t row) const {
    int64_t offset = 0;
    for (size_t d = strides_.size(); d-- > 0;) {
      offset += row % positions.sizes[d] * strides_[d];
      row /= positions.sizes[d];
    }
    return offset;
  }

 private:
  std::vector<int64_t> strides_;
};

// Rows to be read, and rows that are masked or carry the ignored label. Working through such lists shares the rows
// that cost something evenly between threads.
struct ValidRows {
  std::vector<int64_t> valid;
  std::vector<int64_t> masked;

  ValidRows(const Positions& rows, int64_t vocabulary, const int64_t* labels, const bool* mask) {
    valid.reserve(rows.count);
    for (int64_t row = 0; row < rows.count; ++row) {
      if (!is_valid(mask, row) || labels[row] == kIgnoredLabel) {
        masked.push_back(row);
        continue;
      }
      if (labels[row] < 0 || labels[row] >= vocabulary) {
        throw std::out_of_range("labels: expected 0 <= label < " + std::to_string(vocabulary) +
                                ", or -100 where there is none, got " + std::to_string(labels[row]) + " at " +
                                rows.name(row));
      }
      valid.push_back(row);
    }
  }
};

}  // namespace segkernel
