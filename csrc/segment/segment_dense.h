// `segment` along a row, vectorised: sums and means of float32, bfloat16 and float16 rewards.
#pragma once

#include "segment_row.h"

namespace segkernel {

// As `segment_row` for kSum or kMean. Writes the mask only when there is a trigger: otherwise signs come later.
template <class T>
using SegmentDense = int32_t (*)(bool mean, const T* rewards, const bool* mask, int64_t length,
                                 const SegmentRule<float>& rule, const SegmentRowOut& out);

struct SegmentDenseKernels {
  SegmentDense<float> of_float;
  SegmentDense<bfloat16> of_bfloat16;
  SegmentDense<float16> of_float16;
};

#if defined(__x86_64__)
extern const SegmentDenseKernels kSegmentDenseAvx512Vbmi2;
#endif

}  // namespace segkernel
