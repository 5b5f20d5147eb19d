// Log-probability of a label and entropy of softmax(z), z = cap(logit_scale * x) / temperature, and their gradients.
//
// Everything is worked out in base 2: z * log2(e) = factor * y with y = x or, under a softcap, y = tanh(inner * x).
// Then softmax_i = 2^(factor * (y_i - max)) / sum, where the largest y has a difference of exactly 0 and so a weight of
// exactly 1. A row is read in parts; a part is summed up by its `Running` sums, and parts merge in any order.
#pragma once

#include <math.h>

#include "../simd/inline.h"

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
struct Running {
  double max;
  double sum;
  double weighted;

  static SK_INLINE Running empty() { return {-INFINITY, 0.0, 0.0}; }

  SK_INLINE Running relative_to(double reference, double factor) const {
    if (max == reference) return *this;
    const double shift = factor * (max - reference);
    const double scale = ::exp2(shift);
    // Where 2^shift vanishes so does 2^shift * shift, but 0 * -inf would be NaN.
    return {reference, scale * sum, scale * weighted + (scale == 0 ? 0 : scale * shift) * sum};
  }
};

SK_INLINE Running merge(const Running& a, const Running& b, double factor) {
  const double max = b.max > a.max ? b.max : a.max;
  const Running left = a.relative_to(max, factor);
  const Running right = b.relative_to(max, factor);
  return {max, left.sum + right.sum, left.weighted + right.weighted};
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
