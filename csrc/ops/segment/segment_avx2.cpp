#include "segment_simd.h"

namespace segkernel {

const KernelsByDtype<SegmentKernel> kSegmentAvx2 = kSegmentSimd;

}  // namespace segkernel
