#include "segment_simd.h"

namespace segkernel {

const KernelsByDtype<SegmentKernel> kSegmentBaseline = kSegmentSimd;

}  // namespace segkernel
