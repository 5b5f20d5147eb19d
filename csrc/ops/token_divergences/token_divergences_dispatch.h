// Row kernels of the instruction set in use, by element type.
#pragma once

#include "../../simd/isa.h"
#include "token_divergences_kernels.h"

namespace segkernel {

inline const DivergenceKernels& divergence_kernels() {
#if defined(__x86_64__)
  if (chosen_isa() == Isa::avx512) return kDivergenceKernelsAvx512;
  if (chosen_isa() == Isa::avx2) return kDivergenceKernelsAvx2;
#endif
  return kDivergenceKernelsBaseline;
}

inline const PairKernels<double>& pair_kernels(double) { return kDivergenceKernelsDouble; }
inline const PairKernels<float>& pair_kernels(float) { return divergence_kernels().of_float; }
inline const PairKernels<bfloat16>& pair_kernels(bfloat16) { return divergence_kernels().of_bfloat16; }
inline const PairKernels<float16>& pair_kernels(float16) { return divergence_kernels().of_float16; }

}  // namespace segkernel
