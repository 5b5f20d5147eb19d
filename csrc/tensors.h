// From torch's stable-ABI tensors to the plain pointers that the kernels take. The only header that knows torch.
//
// The Python wrappers validate what users pass and say so in the user's terms; what is checked here is what memory
// safety needs when an operator is called directly through torch.ops.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <vector>

#include "checks.h"
#include "floats.h"
#include "rows.h"

namespace segkernel {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <class T>
inline constexpr ScalarType dtype_of = ScalarType::Undefined;
template <>
inline constexpr ScalarType dtype_of<double> = ScalarType::Double;
template <>
inline constexpr ScalarType dtype_of<float> = ScalarType::Float;
template <>
inline constexpr ScalarType dtype_of<bfloat16> = ScalarType::BFloat16;
template <>
inline constexpr ScalarType dtype_of<float16> = ScalarType::Half;
template <>
inline constexpr ScalarType dtype_of<int64_t> = ScalarType::Long;
template <>
inline constexpr ScalarType dtype_of<int32_t> = ScalarType::Int;
template <>
inline constexpr ScalarType dtype_of<int8_t> = ScalarType::Char;
template <>
inline constexpr ScalarType dtype_of<bool> = ScalarType::Bool;

template <class T>
const T* data(const char* argument, const Tensor& tensor, int64_t numel) {
  check(tensor.is_cpu(), argument, "expected a CPU tensor");
  check(tensor.scalar_type() == dtype_of<T>, argument, "expected dtype ", toString(dtype_of<T>), ", got ",
        toString(tensor.scalar_type()));
  check(tensor.is_contiguous(), argument, "expected a contiguous tensor");
  check(tensor.numel() == numel, argument, "expected ", numel, " elements, got ", tensor.numel());
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* data(const char* argument, const OptionalTensor& tensor, int64_t numel) {
  return tensor.has_value() ? data<T>(argument, *tensor, numel) : nullptr;
}

template <class T>
PerRow<T> per_row(const char* argument, double value, const OptionalTensor& rows, int64_t count) {
  return {static_cast<T>(value), data<T>(argument, rows, count)};
}

// Allocates on the CPU without a trip through the dispatcher.
template <class T>
Tensor empty(std::initializer_list<int64_t> sizes) {
  const auto rank = static_cast<int64_t>(sizes.size());
  int64_t strides[4];
  int64_t stride = 1;
  for (int64_t d = rank - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= sizes.begin()[d];
  }
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      rank, sizes.begin(), strides, static_cast<int32_t>(dtype_of<T>), aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The rows of a padded [B, T] tensor or, with cu_seqlens, of a packed [N] one. Owns the widened offsets.
class RowsOf {
 public:
  RowsOf(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens) {
    if (!cu_seqlens.has_value()) {
      check(tokens.dim() == 2, argument, "expected [B, T], got ", tokens.dim(), " dimension(s)");
      rows_ = {tokens.size(0), tokens.size(1), nullptr};
      return;
    }
    check(tokens.dim() == 1, argument, "expected [N] with cu_seqlens, got ", tokens.dim(), " dimensions");
    const int64_t entries = cu_seqlens->numel();
    check(entries >= 1, "cu_seqlens", "expected [B + 1], got an empty tensor");
    if (cu_seqlens->scalar_type() == ScalarType::Int) {
      const int32_t* offsets = data<int32_t>("cu_seqlens", *cu_seqlens, entries);
      offsets_.assign(offsets, offsets + entries);
    } else {
      const int64_t* offsets = data<int64_t>("cu_seqlens", *cu_seqlens, entries);
      offsets_.assign(offsets, offsets + entries);
    }
    check_cu_seqlens("cu_seqlens", offsets_.data(), entries - 1, tokens.numel());
    rows_ = {entries - 1, 0, offsets_.data()};
  }
  RowsOf(const RowsOf&) = delete;
  RowsOf& operator=(const RowsOf&) = delete;

  // Uninitialised, one entry per token, in the layout of the tokens.
  template <class T>
  Tensor empty_tokens() const {
    return rows_.cu_seqlens == nullptr ? empty<T>({rows_.count, rows_.length}) : empty<T>({offsets_.back()});
  }

  const Rows& operator*() const { return rows_; }
  const Rows* operator->() const { return &rows_; }

 private:
  Rows rows_{};
  std::vector<int64_t> offsets_;
};

// Calls `body` with a value of the tensor's element type.
template <class Body>
void dispatch_floats(const char* argument, ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Double:
      return body(double{});
    case ScalarType::Float:
      return body(float{});
    case ScalarType::BFloat16:
      return body(bfloat16{});
    case ScalarType::Half:
      return body(float16{});
    default:
      fail(argument, "expected float64, float32, bfloat16 or float16, got ", toString(dtype));
  }
}

// Rows are independent, so they are shared out whole: results cannot depend on the thread count.
// `work` is the number of elements of all rows; small inputs stay on the calling thread.
template <class Body>
void for_each_row(int64_t count, int64_t work, const Body& body) {
  constexpr int64_t kWorkPerTask = 8192;
  const int64_t grain = work <= kWorkPerTask ? count : 1 + count * kWorkPerTask / work;
  if (count <= grain) {
    for (int64_t row = 0; row < count; ++row) body(row);
    return;
  }
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

}  // namespace segkernel
