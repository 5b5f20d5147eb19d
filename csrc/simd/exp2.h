// Scalar exp2 for host and device.
#pragma once

#include <math.h>

#include "inline.h"

namespace segkernel {

SK_INLINE double fast_exp2(double x) { return ::exp2(x); }

// On a GPU the special-function unit's approximation: relative error below 2^-22, subnormal results flushed to 0.
SK_INLINE float fast_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return ::exp2f(x);
#endif
}

}  // namespace segkernel
