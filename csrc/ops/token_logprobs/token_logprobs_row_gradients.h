// RowGradients from an operator's arguments, checked, and the gradient of one row on the CPU.
#pragma once

#include "../../torch/arguments.h"
#include "token_logprobs_arguments.h"
#include "token_logprobs_kernels.h"

namespace segkernel {

template <class C>
RowGradients<C> row_gradients(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropies,
                              const Tensor& entropies, const Tensor& lses, int64_t count, int64_t labels_per_row,
                              const Device& device = {}) {
  return {data<C>("grad_logprobs", grad_logprobs, count * labels_per_row, device),
          data<C>("grad_entropy", grad_entropies, count, device),
          grad_entropies.has_value() ? data<C>("entropy", entropies, count, device) : nullptr,
          data<double>("lse", lses, count, device), labels_per_row};
}

// Writes the gradient with respect to logits [count] to `grad`, which may be `logits` itself. `logits` are a slice of
// the row that begins at column `first`; `labels` are the row's, as columns of the whole vocabulary.
template <class T, class Upstream>
void write_row_gradient(const T* logits, T* grad, int64_t count, int64_t first, int64_t row, const int64_t* labels,
                        const LogitTransform& transform, const RowGradients<Upstream>& gradients,
                        const RowKernels<T>& kernels) {
  const RowGradient gradient = gradients.of(row, labels);
  const auto is_here = [&](int64_t k) {
    return labels[k] != kIgnoredLabel && labels[k] >= first && labels[k] < first + count;
  };
  double at_labels[RowLabels::kMost];  // computed before `grad` overwrites the logits
  for (int64_t k = 0; k < gradients.labels_per_row; ++k) {
    if (!is_here(k)) continue;
    const double label_y = y_of(logits + (labels[k] - first), transform, kernels);
    at_labels[k] = gradient.at_label(label_y, gradients.of_label(row, labels, labels[k]), transform);
  }
  kernels.gradient(logits, grad, count, transform, gradient.off_label(transform));
  for (int64_t k = 0; k < gradients.labels_per_row; ++k) {
    if (is_here(k)) grad[labels[k] - first] = narrow<T>(static_cast<compute_t<T>>(at_labels[k]));
  }
}

}  // namespace segkernel
