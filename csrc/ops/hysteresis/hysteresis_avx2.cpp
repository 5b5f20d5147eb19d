#include "hysteresis_simd.h"

namespace segkernel {

const KernelsByDtype<HysteresisKernel> kHysteresisAvx2 = kHysteresisSimd;

}  // namespace segkernel
