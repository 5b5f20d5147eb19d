// One kernel for each dtype that is computed in float, compiled for one instruction set.
#pragma once

#include <tuple>

#include "../core/dtypes.h"

namespace segkernel {

template <template <class> class Kernel>
using KernelsByDtype = std::tuple<Kernel<float>, Kernel<bfloat16>, Kernel<float16>>;

}  // namespace segkernel
