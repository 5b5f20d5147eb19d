// Gradient of the loss with respect to a row of logits x, from those with respect to its log-probability and entropy:
//
//   d loss / d x_i = dz/dx_i * (g_i - g * p_i - g_entropy * p_i * (log p_i + entropy)),
//
// where g_i is the sum of the upstream gradients of the labels that are i, and g that of all labels. A label's element
// is computed in double; the others are 2^d * (constant + linear * d), in the compute type.
#pragma once

#include "token_logprobs.h"

namespace segkernel {

// The row's constants of the gradient off the label: with d = factor * (y - reference),
// d loss / d x = 2^d * (constant + linear * d) * (1 - y^2 under a softcap). `reference` is exact in float.
struct OffLabelCoefficients {
  double reference;
  double constant;
  double linear;
};

struct RowGradient {
  double grad_logprob;  // g
  double grad_entropy;
  double lse;
  double entropy;

  // Gradient at a label's element; `of_label` is g_i.
  SK_INLINE double at_label(double y, double of_label, const LogitTransform& transform) const {
    const double log_p = kLn2 * (transform.factor * y) - lse;
    const double p = ::exp(log_p);
    const double entropy_part = p == 0 ? 0 : grad_entropy * p * (log_p + entropy);
    return transform.derivative(y) * (of_label - grad_logprob * p - entropy_part);
  }

  // The reference is log sum exp in units of y, so that 2^d is p. A factor 2^-rest compensates its rounding error.
  SK_INLINE OffLabelCoefficients off_label(const LogitTransform& transform) const {
    const double lse2 = lse * kLog2E;
    const float reference = static_cast<float>(lse2 / transform.factor);
    const double rest = lse2 - transform.factor * reference;
    const double scale = transform.slope * ::exp2(-rest);
    return {reference, scale * (-grad_logprob - grad_entropy * (entropy - kLn2 * rest)), -scale * grad_entropy * kLn2};
  }
};

// The gradients of a batch of rows. Either upstream gradient may be null; the entropies are null with theirs.
template <class C>
struct RowGradients {
  const C* grad_logprobs;
  const C* grad_entropies;
  const C* entropies;
  const double* lses;
  int64_t labels_per_row;

  // `labels` are the row's. Upstream gradients of ignored labels are not used.
  SK_INLINE RowGradient of(int64_t row, const int64_t* labels) const {
    double grad_logprob = 0;
    if (grad_logprobs != nullptr) {
      for (int64_t k = 0; k < labels_per_row; ++k) {
        if (labels[k] != kIgnoredLabel) grad_logprob += grad_logprobs[row * labels_per_row + k];
      }
    }
    return {grad_logprob, grad_entropies == nullptr ? 0.0 : grad_entropies[row], lses[row],
            grad_entropies == nullptr ? 0.0 : entropies[row]};
  }

  // Sum of the upstream gradients of the row's labels that equal `label`.
  SK_INLINE double of_label(int64_t row, const int64_t* labels, int64_t label) const {
    double sum = 0;
    if (grad_logprobs == nullptr) return sum;
    for (int64_t k = 0; k < labels_per_row; ++k) {
      if (labels[k] == label) sum += grad_logprobs[row * labels_per_row + k];
    }
    return sum;
  }
};

}  // namespace segkernel
