// Outputs of `token_logprobs`: log-probabilities and entropies in the shape of `labels` and the compute type of the
// logits, and log sum exp in float64, which the gradient needs.
#pragma once

#include "../../torch/outputs.h"

namespace segkernel {

struct LogprobOutputs {
  Tensor logprobs, entropy, lse;

  // Uninitialized. `entropy` is [0] unless wanted.
  LogprobOutputs(const Tensor& logits, const Tensor& labels, bool want_entropy)
      : logprobs(like(labels, compute_dtype(logits))),
        entropy(want_entropy ? like(labels, compute_dtype(logits))
                             : torch::stable::new_empty(labels, {0}, compute_dtype(logits))),
        lse(like(labels, ScalarType::Double)) {}

 private:
  static Tensor like(const Tensor& labels, ScalarType dtype) {
    return torch::stable::new_empty(labels, labels.sizes(), dtype);
  }
  static ScalarType compute_dtype(const Tensor& logits) {
    return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
};

}  // namespace segkernel
