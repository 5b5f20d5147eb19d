// Row kernels of the instruction set in use, by element type.
#pragma once

#include "../../simd/isa.h"
#include "token_logprobs_kernels.h"

namespace segkernel {

inline const LogprobKernels& logprob_kernels() {
#if defined(__x86_64__)
  if (chosen_isa() == Isa::avx512) return kLogprobKernelsAvx512;
  if (chosen_isa() == Isa::avx2) return kLogprobKernelsAvx2;
#endif
  return kLogprobKernelsBaseline;
}

inline const RowKernels<double>& row_kernels(double) { return kLogprobKernelsDouble; }
inline const RowKernels<float>& row_kernels(float) { return logprob_kernels().of_float; }
inline const RowKernels<bfloat16>& row_kernels(bfloat16) { return logprob_kernels().of_bfloat16; }
inline const RowKernels<float16>& row_kernels(float16) { return logprob_kernels().of_float16; }

}  // namespace segkernel
