// One kernel for each dtype that is computed in float, compiled for one instruction set.
#pragma once

#include <type_traits>

#include "../core/dtypes.h"

namespace segkernel {

template <template <class> class Kernel>
struct KernelsByDtype {
  Kernel<float> of_float;
  Kernel<bfloat16> of_bfloat16;
  Kernel<float16> of_float16;

  template <class T>
  Kernel<T> of() const {
    if constexpr (std::is_same_v<T, float>) return of_float;
    if constexpr (std::is_same_v<T, bfloat16>) return of_bfloat16;
    if constexpr (std::is_same_v<T, float16>) return of_float16;
  }
};

}  // namespace segkernel
