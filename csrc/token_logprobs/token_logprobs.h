// Log-probability of a label and entropy of softmax(z), z = cap(logit_scale * x) / temperature, and their gradients.
//
// Everything is worked out in base 2: t = z * log2(e), so that softmax_i = 2^(t_i - log2 sum 2^t). A row is read in
// parts; a part is summed up by its `Running` sums, and parts merge in any order.
#pragma once

#include <math.h>

#include "../simd/inline.h"

namespace segkernel {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// t(x) = outer * x, or outer * tanh(inner * x) under a softcap. The derivative dz/dx is slope * (1 - tanh^2).
struct LogitTransform {
  bool capped;
  double inner;
  double outer;
  double slope;

  static LogitTransform make(double logit_scale, double temperature, const double* softcap) {
    const double slope = logit_scale / temperature;
    if (softcap == nullptr) return {false, 1.0, slope * kLog2E, slope};
    return {true, logit_scale / *softcap, *softcap / temperature * kLog2E, slope};
  }

  SK_INLINE double operator()(double x) const { return outer * (capped ? ::tanh(inner * x) : x); }

  SK_INLINE double derivative(double x) const {
    if (!capped) return slope;
    const double y = ::tanh(inner * x);
    return slope * (1 - y * y);
  }
};

// Sums over a part of a row, relative to `max`: sum = sum_i 2^(t_i - max), weighted = sum_i 2^(t_i - max) (t_i - max).
// `max` is a reference near the largest t_i; -inf (with sum 0) when the part is empty or nothing but -inf.
// A NaN or +inf among the t_i makes `sum` NaN.
struct Running {
  double max;
  double sum;
  double weighted;

  static SK_INLINE Running empty() { return {-INFINITY, 0.0, 0.0}; }

  SK_INLINE Running relative_to(double reference) const {
    if (max == reference) return *this;
    const double shift = max - reference;
    const double scale = ::exp2(shift);
    // Where 2^shift vanishes so does 2^shift * shift, but 0 * -inf would be NaN.
    return {reference, scale * sum, scale * weighted + (scale == 0 ? 0 : scale * shift) * sum};
  }
};

SK_INLINE Running merge(const Running& a, const Running& b) {
  const double max = b.max > a.max ? b.max : a.max;
  const Running left = a.relative_to(max);
  const Running right = b.relative_to(max);
  return {max, left.sum + right.sum, left.weighted + right.weighted};
}

// What a whole row's sums say, in nats. No difference of large numbers: t - max <= 0, and so both terms of the entropy
// are >= 0.
SK_INLINE double log_sum_exp(const Running& row) { return kLn2 * (row.max + ::log2(row.sum)); }
SK_INLINE double logprob_of(double label_t, const Running& row) {
  return kLn2 * ((label_t - row.max) - ::log2(row.sum));
}
SK_INLINE double entropy_of(const Running& row) { return kLn2 * (::log2(row.sum) - row.weighted / row.sum); }

// d loss / d x_i = dz/dx_i * (g_logprob * ([i is the label] - p_i) - g_entropy * p_i * (log p_i + entropy)).
struct RowGradient {
  double logprob;       // d loss / d logprob
  double entropy_grad;  // d loss / d entropy
  double lse;
  double entropy;

  SK_INLINE double at_label(double x, const LogitTransform& transform) const {
    const double log_p = transform(x) * kLn2 - lse;
    const double p = ::exp(log_p);
    const double of_entropy = p == 0 ? 0 : entropy_grad * p * (log_p + entropy);
    return transform.derivative(x) * (logprob * (1 - p) - of_entropy);
  }
};

// The same off the label, as the kernels' inner loops take it: with d = t - reference,
// d loss / d x = 2^d * (constant + linear * d) * (1 - tanh^2). `reference` is exact in float.
struct GradientTerms {
  double reference;
  double constant;
  double linear;

  static SK_INLINE GradientTerms make(const RowGradient& row, double slope) {
    const double lse = row.lse * kLog2E;
    const float reference = static_cast<float>(lse);
    const double rest = lse - reference;  // what rounding to float left out, put back as a factor 2^-rest
    const double scale = slope * ::exp2(-rest);
    return {reference, scale * (-row.logprob - row.entropy_grad * (row.entropy - kLn2 * rest)),
            -scale * row.entropy_grad * kLn2};
  }
};

}  // namespace segkernel
