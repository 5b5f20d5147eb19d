// Dispatch on a tensor's dtype.
#pragma once

#include "arguments.h"

namespace segkernel {

// Calls `body` with a value of the element type. SK_NO_FLOAT64 leaves out float64, a third of the machine code.
template <class Body>
void dispatch_floats(const char* argument, ScalarType dtype, const Body& body) {
  switch (dtype) {
#if !defined(SK_NO_FLOAT64)
    case ScalarType::Double:
      return body(double{});
#endif
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

inline void check_floats(const char* argument, ScalarType dtype) {
  dispatch_floats(argument, dtype, [](auto) {});
}

}  // namespace segkernel
