// Arguments of `group_normalize` as plain pointers.
#pragma once

#include "../../torch/arguments.h"
#include "../../torch/outputs.h"
#include "group_normalize.h"

namespace segkernel {

template <class T>
struct GroupNormalize {
  const T* values;  // [rows, segments]
  const int32_t* counts;
  const int64_t* groups;
  int64_t rows;
  int64_t segments;
  bool per_segment;
  bool scale;
  double eps;
  compute_t<T>* normalized;

  SK_HOST_DEVICE int64_t valid_values_of(int64_t row) const { return valid_values(counts[row], segments); }
};

// Allocates `normalized`.
template <class T>
GroupNormalize<T> group_normalize_arguments(const Tensor& values, const Tensor& counts, const Tensor& group,
                                            bool per_segment, bool scale, double eps, const Device& device,
                                            Tensor& normalized) {
  check(values.dim() == 2, "values", "expected [B, S], got ", values.dim(), " dimension(s)");
  const int64_t rows = values.size(0);
  const T* in = data<T>("values", values, values.numel(), device);
  const int32_t* count_in = data<int32_t>("counts", counts, rows, device);
  const int64_t* group_in = data<int64_t>("group", group, rows, device);
  normalized = empty<compute_t<T>>({rows, values.size(1)}, device);
  return {
      in, count_in, group_in, rows, values.size(1), per_segment, scale, eps, mutable_data<compute_t<T>>(normalized)};
}

}  // namespace segkernel
