// `segment` along a row, vectorised: float32, bfloat16 and float16 rewards.
#pragma once

#include "segment_row.h"

namespace segkernel {

// As `segment_row`, and writes the mask.
template <class T>
using SegmentVectorised = int32_t (*)(Reduce reduce, const T* rewards, const bool* mask, int64_t length,
                                      const SegmentRule<float>& rule, const SegmentRowOut& out);

struct SegmentKernels {
  SegmentVectorised<float> of_float;
  SegmentVectorised<bfloat16> of_bfloat16;
  SegmentVectorised<float16> of_float16;
};

#if defined(__x86_64__)
extern const SegmentKernels kSegmentAvx2, kSegmentAvx512Vbmi2;
#endif

}  // namespace segkernel
