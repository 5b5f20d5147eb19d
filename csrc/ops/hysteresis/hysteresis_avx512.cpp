#include "hysteresis_simd.h"

namespace segkernel {

const KernelsByDtype<HysteresisKernel> kHysteresisAvx512 = kHysteresisSimd;

}  // namespace segkernel
