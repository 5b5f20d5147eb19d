// Rows of logits [..., V] with any leading strides, and their partition into scored and masked ones.
#pragma once

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../torch/arguments.h"
#include "token_logprobs.h"

namespace segkernel {

enum class RowKind { masked, scored, label_out_of_range };

SK_HOST_DEVICE inline RowKind kind_of(bool valid, int64_t label, int64_t vocabulary) {
  if (!valid || label == kIgnoredLabel) return RowKind::masked;
  return label >= 0 && label < vocabulary ? RowKind::scored : RowKind::label_out_of_range;
}

// The kind of a row with several labels: masked if all of them are ignored.
SK_HOST_DEVICE inline RowKind kind_of(bool valid, const int64_t* labels, int64_t count, int64_t vocabulary) {
  RowKind kind = RowKind::masked;
  for (int64_t k = 0; k < count; ++k) {
    const RowKind of_label = kind_of(valid, labels[k], vocabulary);
    if (of_label > kind) kind = of_label;
  }
  return kind;
}

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

// Offset of a row in elements, from its position; 64-bit throughout. Plain data, which CUDA kernels take by value.
class RowOffsets {
 public:
  RowOffsets(const Tensor& tensor, int64_t dims) {
    int64_t sizes[kMaxDims + 1] = {1};
    int64_t strides[kMaxDims + 1] = {0};
    for (int64_t d = 0; d < dims; ++d) {
      if (tensor.size(d) == 1) continue;
      // Contiguous dimensions are merged: [B, T] of contiguous logits is B * T rows with one stride.
      const bool continues = sizes[dims_] > 1 && strides[dims_] == tensor.size(d) * tensor.stride(d);
      if (!continues) check(++dims_ <= kMaxDims, "logits", "expected at most ", kMaxDims, " strides of rows");
      sizes[dims_] = continues ? sizes[dims_] * tensor.size(d) : tensor.size(d);
      strides[dims_] = tensor.stride(d);
    }
    for (int d = 0; d < dims_; ++d) {
      sizes_[d] = sizes[d + 1];
      strides_[d] = strides[d + 1];
    }
  }

  SK_HOST_DEVICE int64_t operator()(int64_t row) const {
    int64_t offset = 0;
    for (int d = dims_ - 1; d > 0; --d) {
      offset += row % sizes_[d] * strides_[d];
      row /= sizes_[d];
    }
    return offset + row * strides_[0];
  }

 private:
  static constexpr int kMaxDims = 8;
  int dims_ = 0;
  int64_t sizes_[kMaxDims] = {};
  int64_t strides_[kMaxDims] = {};
};

inline ScalarType compute_dtype(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

struct LogitRows {
  explicit LogitRows(const Tensor& logits, const Device& device = {})
      : positions(logits, logits.dim() - 1), offset(logits, logits.dim() - 1) {
    if (!is_on(logits, device)) fail("logits", "expected a tensor on ", name_of(device));
    check(logits.dim() >= 1, "logits", "expected [..., V], got a scalar");
    const int64_t last = logits.dim() - 1;
    vocabulary = logits.size(last);
    check(logits.stride(last) == 1 || vocabulary <= 1, "logits", "expected a contiguous last dimension, got stride ",
          logits.stride(last));
  }

  Positions positions;
  RowOffsets offset;
  int64_t vocabulary = 0;
};

// The labels of every row: one, or K where `labels` has one more dimension than the rows.
struct RowLabels {
  const int64_t* labels;
  int64_t per_row;

  // A thread of a block takes one label of its row.
  static constexpr int64_t kMost = 256;

  static RowLabels of(const Tensor& labels, const Positions& rows, const Device& device = {}) {
    const auto dims = static_cast<int64_t>(rows.sizes.size());
    const int64_t per_row = labels.dim() == dims ? 1 : labels.dim() == dims + 1 ? labels.size(dims) : -1;
    check(per_row >= 0, "labels", "expected the dimensions of the rows of logits, and at most one more");
    check(per_row <= kMost, "labels", "expected at most ", kMost, " labels per row, got ", per_row);
    return {data<int64_t>("labels", labels, rows.count * per_row, device), per_row};
  }

  SK_HOST_DEVICE const int64_t* operator[](int64_t row) const { return labels + row * per_row; }
};

// Throws if the temperature of a row is not positive and finite. `temperatures` may be null.
inline void check_temperature(const double* temperatures, const Positions& rows, int64_t row) {
  if (temperatures == nullptr || (temperatures[row] > 0 && temperatures[row] < INFINITY)) return;
  fail("temperature", "expected a finite number > 0, got ", temperatures[row], " at ", rows.name(row));
}

// Partition into valid rows and rows that are masked or have the ignored label, so that threads get equal numbers of
// valid ones. Throws when a valid row has a label out of range, or a temperature that is not positive and finite.
struct RowPartition {
  std::vector<int64_t> valid;
  std::vector<int64_t> masked;

  RowPartition(const Positions& rows, int64_t vocabulary, const RowLabels& labels, const bool* mask,
               const double* temperatures) {
    valid.reserve(rows.count);
    for (int64_t row = 0; row < rows.count; ++row) {
      const RowKind kind = kind_of(is_valid(mask, row), labels[row], labels.per_row, vocabulary);
      if (kind == RowKind::label_out_of_range) fail_at(rows, row, labels, vocabulary);
      if (kind == RowKind::scored) check_temperature(temperatures, rows, row);
      (kind == RowKind::masked ? masked : valid).push_back(row);
    }
  }

 private:
  [[noreturn]] static void fail_at(const Positions& rows, int64_t row, const RowLabels& labels, int64_t vocabulary) {
    int64_t k = 0;
    while (kind_of(true, labels[row][k], vocabulary) != RowKind::label_out_of_range) ++k;
    std::string at = rows.name(row);
    if (labels.per_row > 1) at.insert(at.size() - 1, (rows.sizes.empty() ? "" : ", ") + std::to_string(k));
    throw std::out_of_range("labels: expected 0 <= label < " + std::to_string(vocabulary) +
                            ", or -100 where there is none, got " + std::to_string(labels[row][k]) + " at " + at);
  }
};

}  // namespace segkernel
