// Row kernels: the loops over two rows of logits, as a table of plain functions per instruction set.
#pragma once

#include <cstdint>

#include "../../core/dtypes.h"
#include "token_divergences_gradient.h"

namespace segkernel {

template <class T>
struct PairKernels {
  // Merges the sums over both rows [count] into `running`; without `cross`, its `cross` stays 0.
  void (*accumulate)(const T* first, const T* second, int64_t count, const LogitTransform& transform, bool cross,
                     PairSums<double>& running);
  // The second pass of js and tv.
  ShapeSums (*shape)(Divergence kind, const T* logits, const T* other, int64_t count, const LogitTransform& transform,
                     double beta, const Normalizer& of_row, const Normalizer& of_other);
  // Writes the gradient without the label's term to grad [count], which may be `logits` itself.
  void (*gradient)(Divergence kind, const T* logits, const T* other, T* grad, int64_t count,
                   const LogitTransform& transform, const PairCoefficients& coefficients);
};

struct DivergenceKernels {
  PairKernels<float> of_float;
  PairKernels<bfloat16> of_bfloat16;
  PairKernels<float16> of_float16;
};

extern const PairKernels<double> kDivergenceKernelsDouble;
extern const DivergenceKernels kDivergenceKernelsBaseline;
#if defined(__x86_64__)
extern const DivergenceKernels kDivergenceKernelsAvx2;
extern const DivergenceKernels kDivergenceKernelsAvx512;
#endif

}  // namespace segkernel
