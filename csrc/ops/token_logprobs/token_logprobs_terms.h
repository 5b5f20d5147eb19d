// Per-logit terms of the running sums and of the gradient, over a vector type V: Vec (csrc/simd), or ScalarVec for a
// CUDA thread and for float64 on the CPU (csrc/core).
#pragma once

#include "token_logprobs_gradient.h"

namespace segkernel {

// d = factor * (y - reference), clamped from below to kLowest, where 2^d is 0: then 2^d * d of d = -inf is not 0 *
// -inf. NaN stays NaN.
template <class V>
struct Difference {
  V factor;
  V reference;

  static SK_INLINE Difference make(double factor, double reference) {
    using Scalar = typename V::Scalar;
    return {V::broadcast(static_cast<Scalar>(factor)), V::broadcast(static_cast<Scalar>(reference))};
  }

  SK_INLINE V unclamped(V y) const { return (y - reference) * factor; }
  SK_INLINE V operator()(V y) const { return maximum(V::broadcast(V::kLowest), unclamped(y)); }
};

// `sum`, `weighted` and `squares` of RunningSums; those that kOutputs does not need stay 0. Finite y need no clamp if
// V's exp2 takes any argument.
template <class V, Outputs kOutputs, bool kFinite = false>
struct TermSums {
  V sum = V::broadcast(0);
  V weighted = V::broadcast(0);
  V squares = V::broadcast(0);

  SK_INLINE void add(V y, const Difference<V>& difference) {
    const V d = kFinite ? difference.unclamped(y) : difference(y);
    const V term = exp2(d);
    sum = sum + term;
    if constexpr (has_entropies(kOutputs)) weighted = fma(term, d, weighted);
    if constexpr (has_statistics(kOutputs)) squares = fma(term, term, squares);
  }
};

// d loss / d x off the label as a function of y.
template <class V, bool kCapped, bool kEntropy>
struct OffLabelGradient {
  Difference<V> difference;
  V constant;
  V linear;

  static SK_INLINE OffLabelGradient make(const LogitTransform& transform, const OffLabelCoefficients& coefficients) {
    return {Difference<V>::make(transform.factor, coefficients.reference), broadcast(coefficients.constant),
            broadcast(coefficients.linear)};
  }

  SK_INLINE V operator()(V y) const {
    const V d = difference(y);
    V gradient = exp2(d) * (kEntropy ? fma(linear, d, constant) : constant);
    if (kCapped) gradient = gradient * fma(V::broadcast(0) - y, y, V::broadcast(1));
    return gradient;
  }

 private:
  // NaN loses its payload: rounding to bfloat16 by an addition would carry a payload of ones into the sign.
  static SK_INLINE V broadcast(double coefficient) {
    return V::broadcast(static_cast<typename V::Scalar>(coefficient == coefficient ? coefficient : NAN));
  }
};

}  // namespace segkernel
