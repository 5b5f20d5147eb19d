// Row kernels: the loops over one row of logits, as a table of plain functions per instruction set.
#pragma once

#include <cstdint>

#include "../../core/dtypes.h"
#include "token_logprobs_gradient.h"

namespace segkernel {

template <class T>
struct RowKernels {
  // Merges the sums over logits [count] into `row`; `first` is the index of the first logit in its row. Sums that
  // `outputs` does not need stay as they are. A row may be read in parts, in order.
  void (*accumulate)(const T* logits, int64_t count, int64_t first, const LogitTransform& transform, Outputs outputs,
                     RowSums<double>& row);
  // y = tanh(inner * x) of one logit, bit for bit as in `accumulate`.
  double (*cap)(const T* logit, double inner);
  // Writes the gradient off the label to grad [count], which may be `logits` itself.
  void (*gradient)(const T* logits, T* grad, int64_t count, const LogitTransform& transform,
                   const OffLabelCoefficients& coefficients);
};

template <class T>
double y_of(const T* logit, const LogitTransform& transform, const RowKernels<T>& kernels) {
  return transform.capped ? kernels.cap(logit, transform.inner) : widen(*logit);
}

struct LogprobKernels {
  RowKernels<float> of_float;
  RowKernels<bfloat16> of_bfloat16;
  RowKernels<float16> of_float16;
};

extern const RowKernels<double> kLogprobKernelsDouble;
extern const LogprobKernels kLogprobKernelsBaseline;
#if defined(__x86_64__)
extern const LogprobKernels kLogprobKernelsAvx2;
extern const LogprobKernels kLogprobKernelsAvx512;
#endif

}  // namespace segkernel
