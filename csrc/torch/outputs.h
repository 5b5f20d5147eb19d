// Allocation of output tensors.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <initializer_list>

#include "arguments.h"

namespace segkernel {

// An uninitialized contiguous tensor, allocated without a call through the dispatcher.
template <class T>
Tensor empty(std::initializer_list<int64_t> sizes, const Device& device = {}) {
  constexpr size_t kMaxDims = 4;
  int64_t strides[kMaxDims];
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    const bool overflows = __builtin_mul_overflow(stride, sizes.begin()[d], &stride);
    check(!overflows, "output", "expected fewer than 2^63 elements, got more");
  }
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
                                                  static_cast<int32_t>(dtype_of<T>), device.type, device.index,
                                                  &handle));
  return Tensor(handle);
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace segkernel
