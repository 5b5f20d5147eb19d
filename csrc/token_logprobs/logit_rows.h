// The rows of logits [..., V] with whatever leading strides, and which of them are to be read.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "../tensors.h"

namespace segkernel {

constexpr int64_t kIgnoredLabel = -100;

// Addresses of rows by their index in row-major order over the leading dimensions. 64-bit throughout.
class LogitRows {
 public:
  explicit LogitRows(const Tensor& logits) {
    check(logits.is_cpu(), "logits", "expected a CPU tensor");
    check(logits.dim() >= 1, "logits", "expected [..., V], got a scalar");
    const int64_t last = logits.dim() - 1;
    vocabulary = logits.size(last);
    check(logits.stride(last) == 1 || vocabulary <= 1, "logits", "expected a contiguous last dimension, got stride ",
          logits.stride(last));
    for (int64_t d = 0; d < last; ++d) {
      sizes_.push_back(logits.size(d));
      strides_.push_back(logits.stride(d));
      count *= logits.size(d);
    }
  }

  int64_t count = 1;  // rows, the product of the leading dimensions
  int64_t vocabulary = 0;

  // In elements.
  int64_t offset(int64_t row) const {
    int64_t offset = 0;
    for (size_t d = sizes_.size(); d-- > 0;) {
      offset += row % sizes_[d] * strides_[d];
      row /= sizes_[d];
    }
    return offset;
  }

  std::string position(int64_t row) const {
    std::string text;
    for (size_t d = sizes_.size(); d-- > 0;) {
      text = std::to_string(row % sizes_[d]) + (text.empty() ? "" : ", ") + text;
      row /= sizes_[d];
    }
    return "[" + text + "]";
  }

 private:
  std::vector<int64_t> sizes_;
  std::vector<int64_t> strides_;
};

// Rows to be read, and rows that are masked or carry the ignored label. Working through such lists shares the rows
// that cost something evenly between threads.
struct ValidRows {
  std::vector<int64_t> valid;
  std::vector<int64_t> masked;

  ValidRows(const LogitRows& rows, const int64_t* labels, const bool* mask) {
    valid.reserve(rows.count);
    for (int64_t row = 0; row < rows.count; ++row) {
      if ((mask != nullptr && !mask[row]) || labels[row] == kIgnoredLabel) {
        masked.push_back(row);
        continue;
      }
      if (labels[row] < 0 || labels[row] >= rows.vocabulary) {
        throw std::out_of_range("labels: expected 0 <= label < " + std::to_string(rows.vocabulary) +
                                ", or -100 where there is none, got " + std::to_string(labels[row]) + " at " +
                                rows.position(row));
      }
      valid.push_back(row);
    }
  }
};

}  // namespace segkernel
