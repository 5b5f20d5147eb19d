// The Schmitt trigger along a row, vectorised: float32, bfloat16 and float16 rewards.
#pragma once

#include <cstdint>

#include "../../core/dtypes.h"

namespace segkernel {

template <class T>
using HysteresisVectorised = void (*)(const T* rewards, const bool* mask, int64_t length, float low, float high,
                                      int initial, bool hold, int8_t* states);

struct HysteresisKernels {
  HysteresisVectorised<float> of_float;
  HysteresisVectorised<bfloat16> of_bfloat16;
  HysteresisVectorised<float16> of_float16;
};

#if defined(__x86_64__)
extern const HysteresisKernels kHysteresisAvx2, kHysteresisAvx512;
#endif

}  // namespace segkernel
