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
#include <string>
#include <utility>

#include "../core/dtypes.h"
#include "../core/errors.h"
#include "../core/rows.h"

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

// Where a tensor's data is. The CPU is one device, whatever index torch writes beside it.
struct Device {
  int32_t type = aoti_torch_device_type_cpu();
  int32_t index = 0;

  bool holds(const Tensor& tensor) const {
    int32_t tensor_type;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &tensor_type));
    return tensor_type == type && (type == aoti_torch_device_type_cpu() || tensor.get_device_index() == index);
  }
};

inline std::string name_of(const Device& device) {
  if (device.type == aoti_torch_device_type_cpu()) return "the CPU";
  return "CUDA device " + std::to_string(device.index);
}

template <class T>
const T* data(const char* argument, const Tensor& tensor, int64_t numel, const Device& device = {}) {
  if (!device.holds(tensor)) fail(argument, "expected a tensor on ", name_of(device));
  check(tensor.scalar_type() == dtype_of<T>, argument, "expected dtype ", toString(dtype_of<T>), ", got ",
        toString(tensor.scalar_type()));
  check(tensor.is_contiguous(), argument, "expected a contiguous tensor");
  check(tensor.numel() == numel, argument, "expected ", numel, " elements, got ", tensor.numel());
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* data(const char* argument, const OptionalTensor& tensor, int64_t numel, const Device& device = {}) {
  return tensor.has_value() ? data<T>(argument, *tensor, numel, device) : nullptr;
}

template <class T>
PerRow<T> per_row(const char* argument, double value, const OptionalTensor& rows, int64_t count,
                  const Device& device = {}) {
  return {static_cast<T>(value), data<T>(argument, rows, count, device)};
}

// Allocates, uninitialised, without a trip through the dispatcher.
template <class T>
AtenTensorHandle empty_handle(std::initializer_list<int64_t> sizes, const Device& device) {
  const auto rank = static_cast<int64_t>(sizes.size());
  int64_t strides[4];
  int64_t stride = 1;
  for (int64_t d = rank - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= sizes.begin()[d];
  }
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, sizes.begin(), strides, static_cast<int32_t>(dtype_of<T>),
                                                  device.type, device.index, &handle));
  return handle;
}

template <class T>
Tensor empty(std::initializer_list<int64_t> sizes, const Device& device = {}) {
  return Tensor(empty_handle<T>(sizes, device));
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// A new tensor on its way out. A boxed kernel returns handles that its caller then owns: this one gives its own away,
// where a `Tensor` would make a second and delete the first.
template <class T>
class Output {
 public:
  Output(std::initializer_list<int64_t> sizes, const Device& device) : handle_(empty_handle<T>(sizes, device)) {}
  Output(Output&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  T* data() const {
    void* data;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(handle_, &data));
    return static_cast<T*>(data);
  }

  StableIValue give_away() { return reinterpret_cast<StableIValue>(std::exchange(handle_, nullptr)); }

 private:
  AtenTensorHandle handle_;
};

// The rows of a padded [B, T] tensor or, with cu_seqlens, of a packed [N] one.
class RowsOf {
 public:
  // On the CPU: the offsets are checked.
  RowsOf(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens)
      : RowsOf(argument, tokens, cu_seqlens, Device{}) {
    if (rows_.packed()) check_cu_seqlens("cu_seqlens", rows_.cu_seqlens, rows_.count, rows_.length);
  }

  // On a device that the host does not wait for: they are not.
  RowsOf(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens, const Device& device)
      : device_(device) {
    if (!cu_seqlens.has_value()) {
      check(tokens.dim() == 2, argument, "expected [B, T], got ", tokens.dim(), " dimension(s)");
      rows_ = {tokens.size(0), tokens.size(1), {}};
      return;
    }
    check(tokens.dim() == 1, argument, "expected [N] with cu_seqlens, got ", tokens.dim(), " dimensions");
    const int64_t entries = cu_seqlens->numel();
    check(entries >= 1, "cu_seqlens", "expected [B + 1], got an empty tensor");
    const Offsets offsets = cu_seqlens->scalar_type() == ScalarType::Int
                                ? Offsets{.as_int32 = data<int32_t>("cu_seqlens", *cu_seqlens, entries, device)}
                                : Offsets{.as_int64 = data<int64_t>("cu_seqlens", *cu_seqlens, entries, device)};
    rows_ = {entries - 1, tokens.numel(), offsets};
  }

  // Uninitialised, one entry per token, in the layout of the tokens.
  template <class T>
  Tensor empty_tokens() const {
    return rows_.packed() ? empty<T>({rows_.length}, device_) : empty<T>({rows_.count, rows_.length}, device_);
  }

  const Rows& operator*() const { return rows_; }
  const Rows* operator->() const { return &rows_; }

 private:
  Rows rows_{};
  Device device_;
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
  constexpr int64_t kWorkPerTask = 16384;  // less is not worth waking a thread for
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
