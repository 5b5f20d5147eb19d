// The Schmitt trigger along one row on the host: chooses the kernel.
#pragma once

#include "../../core/rows.h"
#include "../../simd/isa.h"
#include "hysteresis.h"
#include "hysteresis_simd.h"

namespace segkernel {

inline const KernelsByDtype<HysteresisKernel>& hysteresis_kernels() {
#if defined(__x86_64__)
  if (chosen_isa() == Isa::avx512) return kHysteresisAvx512;
  if (chosen_isa() == Isa::avx2) return kHysteresisAvx2;
#endif
  return kHysteresisSimd;
}

// float64 rewards: the scalar definition.
inline void hysteresis_row(const double* rewards, const bool* mask, int64_t length, double low, double high,
                           int initial, bool hold, int8_t* states) {
  int state = initial;
  for (int64_t t = 0; t < length; ++t) {
    if (is_valid(mask, t)) state = schmitt_step(state, rewards[t], low, high, hold);
    states[t] = static_cast<int8_t>(is_valid(mask, t) ? state : 0);
  }
}

template <class T>
void hysteresis_row(const T* rewards, const bool* mask, int64_t length, float low, float high, int initial, bool hold,
                    int8_t* states) {
  std::get<HysteresisKernel<T>>(hysteresis_kernels())(rewards, mask, length, low, high, initial, hold, states);
}

}  // namespace segkernel
