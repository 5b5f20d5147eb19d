// RowGradients from an operator's arguments, checked.
#pragma once

#include "../../torch/arguments.h"
#include "token_logprobs_gradient.h"

namespace segkernel {

template <class C>
RowGradients<C> row_gradients(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropies,
                              const Tensor& entropies, const Tensor& lses, int64_t count, const Device& device = {}) {
  return {data<C>("grad_logprobs", grad_logprobs, count, device),
          data<C>("grad_entropy", grad_entropies, count, device),
          grad_entropies.has_value() ? data<C>("entropy", entropies, count, device) : nullptr,
          data<double>("lse", lses, count, device)};
}

}  // namespace segkernel
