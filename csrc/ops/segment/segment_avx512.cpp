#include "segment_simd.h"

namespace segkernel {

const KernelsByDtype<SegmentKernel> kSegmentAvx512 = kSegmentSimd;

}  // namespace segkernel
