// The Schmitt trigger along one row on the host: picks the loop for it.
#pragma once

#include <type_traits>

#include "../../simd/bits_baseline.h"
#include "../../simd/isa.h"
#include "hysteresis_by_bits.h"

namespace segkernel {

template <class T, class C = compute_t<T>>
void hysteresis_row(const T* rewards, const bool* mask, int64_t length, C low, C high, int initial, bool hold,
                    int8_t* states) {
  auto* along = &HysteresisByBits<BitsBaseline, C>::template along<T>;
#if defined(__x86_64__)
  if (chosen_isa() > Isa::baseline) {
    const HysteresisKernels& kernels = chosen_isa() == Isa::avx512 ? kHysteresisAvx512 : kHysteresisAvx2;
    if constexpr (std::is_same_v<T, float>) along = kernels.of_float;
    if constexpr (std::is_same_v<T, bfloat16>) along = kernels.of_bfloat16;
    if constexpr (std::is_same_v<T, float16>) along = kernels.of_float16;
  }
#endif
  along(rewards, mask, length, low, high, initial, hold, states);
}

}  // namespace segkernel
