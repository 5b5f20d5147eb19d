// Operator arguments: checked tensors as plain pointers.
//
// The Python wrappers validate arguments in the user's terms. The checks here are those that memory safety needs when
// an operator is called directly through torch.ops.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "../core/dtypes.h"
#include "../core/errors.h"
#include "../core/rows.h"

namespace segkernel {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Torch's name of an element type.
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

// A device by torch's numbering. The index of the CPU has no meaning.
struct Device {
  int32_t type = aoti_torch_device_type_cpu();
  int32_t index = 0;
};

inline bool is_on(const Tensor& tensor, const Device& device) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  return type == device.type && (type == aoti_torch_device_type_cpu() || tensor.get_device_index() == device.index);
}

inline std::string name_of(const Device& device) {
  if (device.type == aoti_torch_device_type_cpu()) return "the CPU";
  return "CUDA device " + std::to_string(device.index);
}

// The elements of a contiguous tensor of `numel` elements of type T.
template <class T>
const T* data(const char* argument, const Tensor& tensor, int64_t numel, const Device& device = {}) {
  if (!is_on(tensor, device)) fail(argument, "expected a tensor on ", name_of(device));
  check(tensor.scalar_type() == dtype_of<T>, argument, "expected dtype ", toString(dtype_of<T>), ", got ",
        toString(tensor.scalar_type()));
  check(tensor.is_contiguous(), argument, "expected a contiguous tensor");
  check(tensor.numel() == numel, argument, "expected ", numel, " elements, got ", tensor.numel());
  return static_cast<const T*>(tensor.const_data_ptr());
}

// The same, or null for an absent tensor.
template <class T>
const T* data(const char* argument, const OptionalTensor& tensor, int64_t numel, const Device& device = {}) {
  return tensor.has_value() ? data<T>(argument, *tensor, numel, device) : nullptr;
}

// A parameter of `count` rows from its pair of arguments: a scalar, and a tensor [count] that wins when present.
template <class T>
PerRow<T> per_row(const char* argument, double value, const OptionalTensor& rows, int64_t count,
                  const Device& device = {}) {
  return {static_cast<T>(value), data<T>(argument, rows, count, device)};
}

// Trigger states of `count` rows: -1, 0 or +1.
inline PerRow<int8_t> state_per_row(const char* argument, int64_t state, const OptionalTensor& rows, int64_t count,
                                    const Device& device = {}) {
  check(state >= -1 && state <= 1, argument, "expected -1, 0 or +1, got ", state);
  return {static_cast<int8_t>(state), data<int8_t>(argument, rows, count, device)};
}

// The integer value of an enum whose last enumerator is `last`.
inline void check_code(const char* argument, int64_t code, int64_t last) {
  check(code >= 0 && code <= last, argument, "expected a code from 0 to ", last, ", got ", code);
}

}  // namespace segkernel
