// Log-probability of a label and entropy of softmax(z), z = cap(logit_scale * x) / temperature, and their gradients.
//
// Everything is worked out in base 2: z * log2(e) = factor * y with y = x or, under a softcap, y = tanh(inner * x).
// Then softmax_i = 2^(factor * (y_i - max)) / sum, where the largest y has a difference of exactly 0 and so a weight of
// exactly 1. A row is read in parts; a part is summed up by its running sums, and parts merge in any order.
#pragma once

#include <math.h>

#include <cstdint>

#include "../../simd/exp2.h"
#include "../../simd/inline.h"

namespace segkernel {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// z * log2(e) = factor * y(x), and dz/dx = slope * (1 - y^2 under a softcap).
struct LogitTransform {
  bool capped;
  double inner;
  double factor;
  double slope;

  // In the numbers that C can hold, so that what is worked out in double agrees with the sums worked out in C.
  template <class C>
  static LogitTransform make(double logit_scale, double temperature, const double* softcap) {
    const double slope = logit_scale / temperature;
    if (softcap == nullptr) return {false, 1.0, static_cast<C>(slope * kLog2E), slope};
    return {true, static_cast<C>(logit_scale / *softcap), static_cast<C>(*softcap / temperature * kLog2E), slope};
  }

  SK_INLINE double derivative(double y) const { return capped ? slope * (1 - y * y) : slope; }
};

// Sums over a part of a row: sum = sum_i 2^d_i and weighted = sum_i 2^d_i * d_i with d_i = factor * (y_i - max).
// `max` is -inf (with sum 0) when the part is empty or nothing but -inf. A NaN or +inf among the y makes `sum` NaN.
// S is double, or on a GPU, where many threads share a row, what its logits are computed in.
template <class S>
struct RunningSums {
  S max;
  S sum;
  S weighted;

  static SK_INLINE RunningSums empty() { return {-INFINITY, 0, 0}; }

  SK_INLINE RunningSums relative_to(S reference, S factor) const {
    if (max == reference) return *this;
    const S shift = factor * (max - reference);
    const S scale = power_of_two(shift);
    // Where 2^shift vanishes so does 2^shift * shift, but 0 * -inf would be NaN.
    return {reference, scale * sum, scale * weighted + (scale == 0 ? 0 : scale * shift) * sum};
  }
};

using Running = RunningSums<double>;

template <class S>
SK_INLINE RunningSums<S> merge(const RunningSums<S>& a, const RunningSums<S>& b, S factor) {
  const S max = b.max > a.max ? b.max : a.max;
  const RunningSums<S> left = a.relative_to(max, factor);
  const RunningSums<S> right = b.relative_to(max, factor);
  return {max, left.sum + right.sum, left.weighted + right.weighted};
}

// Few parts of a row raise the maximum, and by little: so a part is first summed up relative to what the maximum was,
// without looking for a new one. A sum below this says that no value lies so far above it as to cost accuracy.
constexpr double kTrustedSum = 65536;

// Merges a part of a row into `running`. max() is the part's maximum, sums(reference) its sums relative to that.
template <class S, class Max, class Sums>
SK_INLINE void accumulate_part(RunningSums<S>& running, S factor, const Max& max, const Sums& sums) {
  if (running.sum > 0) {
    const RunningSums<S> part = sums(running.max);
    if (part.sum < static_cast<S>(kTrustedSum)) {
      running.sum += part.sum;
      running.weighted += part.weighted;
      return;
    }
  }
  const S part_max = max();
  running = merge(running, sums(running.max > part_max ? running.max : part_max), factor);
}

// What a whole row's sums say, in nats. No difference of large numbers: d <= 0, and so both terms of the entropy are
// >= 0.
SK_INLINE double log_sum_exp(const Running& row, double factor) { return kLn2 * (factor * row.max + ::log2(row.sum)); }
SK_INLINE double logprob_of(double label_y, const Running& row, double factor) {
  return kLn2 * (factor * (label_y - row.max) - ::log2(row.sum));
}
SK_INLINE double entropy_of(const Running& row) { return kLn2 * (::log2(row.sum) - row.weighted / row.sum); }

// d loss / d x_i = dz/dx_i * (g_logprob * ([i is the label] - p_i) - g_entropy * p_i * (log p_i + entropy)).
struct RowGradient {
  double of_logprob;  // d loss / d logprob
  double of_entropy;  // d loss / d entropy
  double lse;
  double entropy;

  SK_INLINE double at_label(double y, const LogitTransform& transform) const {
    const double log_p = kLn2 * (transform.factor * y) - lse;
    const double p = ::exp(log_p);
    const double entropy_part = p == 0 ? 0 : of_entropy * p * (log_p + entropy);
    return transform.derivative(y) * (of_logprob * (1 - p) - entropy_part);
  }
};

// The same of many rows, in the numbers that C holds: either gradient may be absent, the entropies with theirs.
template <class C>
struct RowGradients {
  const C* of_logprobs;
  const C* of_entropies;
  const C* entropies;
  const double* lses;

  SK_INLINE RowGradient of(int64_t row) const {
    return {of_logprobs == nullptr ? 0.0 : of_logprobs[row], of_entropies == nullptr ? 0.0 : of_entropies[row],
            lses[row], of_entropies == nullptr ? 0.0 : entropies[row]};
  }
};

// The same off the label, as the kernels' inner loops take it: with d = factor * (y - reference),
// d loss / d x = 2^d * (constant + linear * d) * (1 - y^2 under a softcap). `reference` is exact in float.
struct GradientTerms {
  double reference;
  double constant;
  double linear;

  static SK_INLINE GradientTerms make(const RowGradient& row, const LogitTransform& transform) {
    const double lse = row.lse * kLog2E;
    const float reference = static_cast<float>(lse / transform.factor);
    const double rest = lse - transform.factor * reference;  // what that rounding left out, as a factor 2^-rest
    const double scale = transform.slope * ::exp2(-rest);
    return {reference, scale * (-row.of_logprob - row.of_entropy * (row.entropy - kLn2 * rest)),
            -scale * row.of_entropy * kLn2};
  }
};

}  // namespace segkernel
