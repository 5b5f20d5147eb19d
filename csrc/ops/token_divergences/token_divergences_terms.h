// Per-logit terms of the sums and of the gradient of a divergence, over a vector type V as in token_logprobs_terms.h.
#pragma once

#include "../../core/scalar_vec.h"
#include "../token_logprobs/token_logprobs_terms.h"
#include "token_divergences_gradient.h"

namespace segkernel {

// Finite stand-in for the logarithm of 0 in differences of logarithms.
constexpr float kLogOfZero = -0x1p90f;

// The sums of the Jensen-Shannon divergence raise smaller probabilities to 2^kLeastLog2, which changes them by less
// than their rounding. Then a logit of -inf needs no case of its own, and all exponents are in the range of
// exp2_in_range.
template <class Scalar>
constexpr Scalar kLeastLog2 = sizeof(Scalar) == sizeof(float) ? -64 : -400;

template <class V>
SK_INLINE V broadcast_as(double value) {
  return V::broadcast(static_cast<typename V::Scalar>(value));
}

// PairSums of logits x and y. Without kCross, `cross` stays 0. Without kExact, `cross` is not finite if there are
// infinite or very distant logits; then the terms are summed again with kExact.
template <class V, bool kCross, bool kExact>
struct PairTerms {
  V sum = V::broadcast(0), weighted = V::broadcast(0);
  V other_sum = V::broadcast(0), other_weighted = V::broadcast(0);
  V cross = V::broadcast(0);

  SK_INLINE void add(V x, V y, const Difference<V>& first, const Difference<V>& second) {
    const V lowest = V::broadcast(V::kLowest);
    const V a = first(x);
    const V b = second.unclamped(y);
    const V b_clamped = maximum(lowest, b);
    const V term = exp2(a);
    const V other_term = exp2(b_clamped);
    sum = sum + term;
    weighted = fma(term, a, weighted);
    other_sum = other_sum + other_term;
    other_weighted = fma(other_term, b_clamped, other_weighted);
    if (!kCross) return;
    if (!kExact) {
      cross = fma(term, a - b, cross);
      return;
    }
    const V minus_infinity = V::broadcast(-INFINITY);
    const V finite = term * (a - maximum(V::broadcast(kLogOfZero), b));
    const V with_second = select_greater(y, minus_infinity, finite, V::broadcast(INFINITY));
    cross = cross + select_greater(x, minus_infinity, with_second, V::broadcast(0));
  }
};

// The distributions p and q at one logit, from the normalizers of both rows.
template <class V>
struct NormalizedPair {
  Difference<V> first, second;
  V first_scale, second_scale;  // 2^-rest: p = first_scale * 2^a, q = second_scale * 2^b
  V rest_difference;            // log2(q / p) = b - a + rest_difference
  V least;                      // y - reference at the probability 2^kLeastLog2
  V own_share, other_share;     // of p and q in the mixture m

  static SK_INLINE NormalizedPair make(double factor, double beta, const Normalizer& of_row,
                                       const Normalizer& of_other) {
    return {Difference<V>::make(factor, of_row.reference),
            Difference<V>::make(factor, of_other.reference),
            broadcast_as<V>(::exp2(-of_row.rest)),
            broadcast_as<V>(::exp2(-of_other.rest)),
            broadcast_as<V>(of_row.rest - of_other.rest),
            broadcast_as<V>(kLeastLog2<typename V::Scalar> / factor),
            broadcast_as<V>(1 - beta),
            broadcast_as<V>(beta)};
  }

  // a, of probabilities of at least 2^kLeastLog2.
  SK_INLINE V log_first(V x) const { return maximum(least, x - first.reference) * first.factor; }

  // log2(q / p), of probabilities of at least 2^kLeastLog2. Subtracting before the multiplication, which rounds, keeps
  // it accurate where p and q are nearly the same.
  SK_INLINE V log_ratio(V x, V y) const {
    const V difference = maximum(least, y - second.reference) - maximum(least, x - first.reference);
    return fma(difference, first.factor, rest_difference);
  }

  // log2(q / p) from a and b, for the gradient: with constant limits it takes fewer registers of a GPU. Beyond them the
  // smaller probability does not change the mixture.
  SK_INLINE V limited_log_ratio(V a, V b) const {
    return maximum(V::broadcast(-126), minimum(V::broadcast(126), b - a + rest_difference));
  }

  // log2(m / p) for q / p = ratio.
  SK_INLINE V log_mixture(V ratio) const { return log2(fma(other_share, ratio, own_share)); }

  // sign(p - q) * value.
  SK_INLINE V signed_by_order(V p, V q, V value) const {
    const V zero = V::broadcast(0);
    return select_greater(p, q, value, select_greater(q, p, zero - value, zero));
  }
};

// ShapeSums of logits x and y.
template <class V, Divergence kKind>
struct ShapeTerms {
  V first = V::broadcast(0), second = V::broadcast(0);

  SK_INLINE void add(V x, V y, const NormalizedPair<V>& pair) {
    if constexpr (kKind == Divergence::js) {
      const V log_ratio = pair.log_ratio(x, y);
      const V ratio = exp2_in_range(log_ratio);
      const V power = exp2_in_range(pair.log_first(x));
      const V mixture = pair.log_mixture(ratio);
      // power * ratio: q, by a product in place of a third exponential.
      first = first - power * mixture;
      second = fma(power * ratio, log_ratio - mixture, second);
    } else {
      const V power = exp2(pair.first(x)), other_power = exp2(pair.second(y));
      const V p = power * pair.first_scale, q = other_power * pair.second_scale;
      first = first + maximum(p - q, q - p);
      second = second + pair.signed_by_order(p, q, p);
    }
  }
};

// d loss / d x as a function of the pair (x, y), without the label's term.
template <class V, bool kCapped, Divergence kKind>
struct PairGradient {
  NormalizedPair<V> pair;
  V constant, linear, shape;

  static SK_INLINE PairGradient make(const LogitTransform& transform, const PairCoefficients& of) {
    return {NormalizedPair<V>::make(transform.factor, of.beta, of.row, of.other), coefficient(of.constant),
            coefficient(of.linear), coefficient(of.shape)};
  }

  SK_INLINE V operator()(V x, V y) const {
    const V a = pair.first(x);
    const V power = exp2(a);
    V inner = fma(linear, a, constant);
    V gradient;
    if (kKind == Divergence::kl) {
      const V log_q = maximum(V::broadcast(kLogOfZero), pair.second.unclamped(y));
      gradient = power * fma(shape, a - log_q, inner);
    } else if (kKind == Divergence::reverse_kl) {
      gradient = fma(shape, exp2(pair.second(y)), power * inner);
    } else if (kKind == Divergence::js) {
      const V ratio = exp2_in_range(pair.limited_log_ratio(a, pair.second(y)));
      gradient = power * fma(shape, pair.log_mixture(ratio), inner);
    } else {
      const V p = power * pair.first_scale, q = exp2(pair.second(y)) * pair.second_scale;
      gradient = power * (inner + pair.signed_by_order(p, q, shape));
    }
    if (kCapped) gradient = gradient * fma(V::broadcast(0) - x, x, V::broadcast(1));
    return gradient;
  }

 private:
  // NaN loses its payload: rounding to bfloat16 by an addition would carry a payload of ones into the sign.
  static SK_INLINE V coefficient(double value) { return broadcast_as<V>(value == value ? value : NAN); }
};

// d loss / d x at the label, in double.
template <bool kCapped, Divergence kKind>
SK_HOST_DEVICE inline double gradient_at_label(double x, double y, double grad_logprob, const LogitTransform& transform,
                                               const PairCoefficients& coefficients) {
  using V = ScalarVec<double>;
  return PairGradient<V, kCapped, kKind>::make(transform, coefficients)(V{x}, V{y}).v +
         grad_logprob * transform.derivative(x);
}

}  // namespace segkernel
