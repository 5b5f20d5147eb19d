// What logits add to the sums of their row, and the gradient with respect to them off the label. Written over the
// vector types of csrc/simd; to a GPU's thread, one number is a vector of one lane (csrc/cuda/scalar_vec.cuh).
#pragma once

#include "token_logprobs.h"

namespace segkernel {

// d = factor * (y - reference), not below where 2^d is 0: the clamp keeps 2^d * d of d = -inf from being 0 * -inf, and
// lets NaN through.
template <class V>
struct Difference {
  V factor;
  V reference;

  static SK_INLINE Difference make(double factor, double reference) {
    using Scalar = typename V::Scalar;
    return {V::broadcast(static_cast<Scalar>(factor)), V::broadcast(static_cast<Scalar>(reference))};
  }

  SK_INLINE V operator()(V y) const { return maximum(V::broadcast(V::kLowest), (y - reference) * factor); }
};

// The sums of `RunningSums` but for the maximum; without kEntropy, `weighted` stays 0.
template <class V, bool kEntropy>
struct TermSums {
  V sum = V::broadcast(0);
  V weighted = V::broadcast(0);

  SK_INLINE void add(V y, const Difference<V>& difference) {
    const V d = difference(y);
    const V term = exp2(d);
    sum = sum + term;
    if (kEntropy) weighted = fma(term, d, weighted);
  }
};

// d loss / d x off the label, of y: see `GradientTerms`.
template <class V, bool kCapped, bool kEntropy>
struct OffLabel {
  Difference<V> difference;
  V constant;
  V linear;

  static SK_INLINE OffLabel make(const LogitTransform& transform, const GradientTerms& terms) {
    using Scalar = typename V::Scalar;
    // NaN is made the plain one: rounding to bfloat16 by addition carries an all-ones payload over into the sign.
    return {Difference<V>::make(transform.factor, terms.reference),
            V::broadcast(static_cast<Scalar>(terms.constant == terms.constant ? terms.constant : NAN)),
            V::broadcast(static_cast<Scalar>(terms.linear == terms.linear ? terms.linear : NAN))};
  }

  SK_INLINE V operator()(V y) const {
    const V d = difference(y);
    V gradient = exp2(d) * (kEntropy ? fma(linear, d, constant) : constant);
    if (kCapped) gradient = gradient * fma(V::broadcast(0) - y, y, V::broadcast(1));
    return gradient;
  }
};

}  // namespace segkernel
