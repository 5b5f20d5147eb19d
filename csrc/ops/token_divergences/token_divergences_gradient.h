// Gradient of the loss with respect to a row of logits x, from those with respect to its divergence D, entropy H and
// log-probability; q is constant. With p_i = softmax(z)_i:
//
//   d loss / d x_i = dz/dx_i * (g_D * dD/dz_i - g_H * p_i * (log p_i + H) + g_logprob * ([i is the label] - p_i)),
//
//   dD/dz_i = p_i * (log(p_i / q_i) - D)                      kl
//             p_i - q_i                                       reverse_kl
//             (1 - beta) * p_i * (log(p_i / m_i) - KL(p||m))  js
//             p_i * (sign(p_i - q_i) - sum_j p_j sign(p_j - q_j)) / 2  tv, the subgradient that is 0 at p_i = q_i
#pragma once

#include "token_divergences.h"

namespace segkernel {

// The row's constants. With a, b = factor * (y - reference) of both rows, d loss / d x without the label's term is
// 2^a * (constant + linear * a + shape * s), where s is a - b for kl, log2(m / p) for js and sign(p - q) for tv, or
// 2^a * (constant + linear * a) + shape * 2^b for reverse_kl, times 1 - y^2 under a softcap.
struct PairCoefficients {
  double constant;
  double linear;
  double shape;
  Normalizer row;
  Normalizer other;
  double beta;
};

// One row's gradients with respect to its outputs.
struct PairUpstream {
  double divergence;
  double entropy;
  double logprob;

  SK_INLINE PairCoefficients coefficients(Divergence kind, double beta, const LogitTransform& transform,
                                          const PairState& state) const {
    const Normalizer row = Normalizer::make(state.lse, transform.factor);
    const Normalizer other = Normalizer::make(state.other_lse, transform.factor);
    double constant = -logprob - (entropy == 0 ? 0 : entropy * (state.entropy - kLn2 * row.rest));
    double shape = 0;
    if (divergence != 0) {  // an infinite divergence that the loss does not use must not give 0 * inf
      if (kind == Divergence::kl) {
        constant += divergence * (kLn2 * (other.rest - row.rest) - state.center);
        shape = divergence * kLn2;
      } else if (kind == Divergence::reverse_kl) {
        constant += divergence;
        shape = -divergence;
      } else if (kind == Divergence::js) {
        constant -= divergence * (1 - beta) * state.center;
        shape = -divergence * (1 - beta) * kLn2;
      } else {
        constant -= divergence / 2 * state.center;
        shape = divergence / 2;
      }
    }
    const double scale = transform.slope * ::exp2(-row.rest);
    const double other_scale = kind == Divergence::reverse_kl ? transform.slope * ::exp2(-other.rest) : scale;
    return {scale * constant, scale * -entropy * kLn2, other_scale * shape, row, other, beta};
  }
};

// Gradients with respect to the outputs of a batch of rows; each may be null.
template <class C>
struct PairUpstreams {
  const C* divergences;
  const C* entropies;
  const C* logprobs;

  SK_INLINE PairUpstream operator[](int64_t row) const {
    return {divergences == nullptr ? 0.0 : divergences[row], entropies == nullptr ? 0.0 : entropies[row],
            logprobs == nullptr ? 0.0 : logprobs[row]};
  }
};

}  // namespace segkernel
