// Log-probability of a label and statistics of softmax(z), z = cap(logit_scale * x) / temperature.
//
// Exponentials are taken in base 2: z * log2(e) = factor * y with y = x or, under a softcap, y = tanh(inner * x). Then
// softmax_i = 2^(factor * (y_i - max)) / sum, where the largest y has the difference 0 and therefore the weight 1. A
// row is read in parts by online softmax (Milakov and Gimelshein 2018): each part has its running sums, which merge in
// any order. The entropy needs one more sum, H = log(sum) - weighted / sum, and so does the sum of p^2.
#pragma once

#include <math.h>

#include <cstdint>
#include <type_traits>

#include "../../core/inline.h"
#include "../../core/scalar_vec.h"

namespace segkernel {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr int64_t kIgnoredLabel = -100;

// Outputs of a pass over the logits; each value includes those before it. Keep in sync with segkernel/_enums.py.
enum class Outputs : int64_t { logprobs, entropies, statistics };

constexpr bool has_entropies(Outputs outputs) { return outputs != Outputs::logprobs; }
constexpr bool has_statistics(Outputs outputs) { return outputs == Outputs::statistics; }

// z * log2(e) = factor * y(x), and dz/dx = slope * (1 - y^2 under a softcap). `inner` and `factor` are not neighbors:
// GCC 12 vectorizes the rounding of two neighbors to float, and then drops it.
struct LogitTransform {
  bool capped;
  double inner;
  double slope;
  double factor;

  // Constants rounded to the compute type C, so that results in double agree with sums in C.
  template <class C>
  static SK_INLINE LogitTransform make(double logit_scale, double temperature, const double* softcap) {
    return make<C>(logit_scale, temperature, softcap != nullptr, softcap == nullptr ? 0 : *softcap);
  }
  template <class C>
  static SK_INLINE LogitTransform make(double logit_scale, double temperature, bool capped, double softcap) {
    const double slope = logit_scale / temperature;
    if (!capped) return {false, 1.0, slope, static_cast<C>(slope * kLog2E)};
    return {true, static_cast<C>(logit_scale / softcap), slope, static_cast<C>(softcap / temperature * kLog2E)};
  }

  SK_INLINE double derivative(double y) const { return capped ? slope * (1 - y * y) : slope; }
};

// Calls body(outputs) with the value as a compile-time constant.
template <class Body>
inline void dispatch_outputs(Outputs outputs, const Body& body) {
  switch (outputs) {
    case Outputs::logprobs:
      return body(std::integral_constant<Outputs, Outputs::logprobs>{});
    case Outputs::entropies:
      return body(std::integral_constant<Outputs, Outputs::entropies>{});
    case Outputs::statistics:
      return body(std::integral_constant<Outputs, Outputs::statistics>{});
  }
}

// Transforms of the rows of a batch: one for all, or one temperature per row.
struct LogitTransforms {
  LogitTransform shared;
  double logit_scale;
  double softcap;              // used if `shared` is capped
  const double* temperatures;  // [rows] or null

  // A temperature that is not positive and finite makes the row NaN.
  template <class C>
  SK_INLINE LogitTransform of(int64_t row) const {
    if (temperatures == nullptr) return shared;
    const double given = temperatures[row];
    const double temperature = given > 0 && given < INFINITY ? given : NAN;
    return LogitTransform::make<C>(logit_scale, temperature, shared.capped, softcap);
  }
};

// Sums over a part of a row: sum = sum_i 2^d_i, weighted = sum_i 2^d_i * d_i and squares = sum_i 4^d_i with
// d_i = factor * (y_i - max). An empty part, and one of -inf only, has max -inf and sum 0. A NaN or +inf among the y
// makes `sum` NaN. S is double on the CPU; on a GPU, where many threads share a row, it is the compute type of the
// logits.
template <class S>
struct RunningSums {
  S max;
  S sum;
  S weighted;
  S squares;

  static SK_INLINE RunningSums empty() { return {-INFINITY, 0, 0, 0}; }

  SK_INLINE RunningSums relative_to(S reference, S factor) const {
    if (max == reference) return *this;
    const S shift = factor * (max - reference);
    const S scale = fast_exp2(shift);
    // 2^shift * shift tends to 0 with 2^shift, but 0 * -inf is NaN.
    return {reference, scale * sum, scale * weighted + (scale == 0 ? 0 : scale * shift) * sum, scale * scale * squares};
  }
};

using Running = RunningSums<double>;

template <class S>
SK_INLINE RunningSums<S> merge(const RunningSums<S>& a, const RunningSums<S>& b, S factor) {
  const S max = b.max > a.max ? b.max : a.max;
  const RunningSums<S> left = a.relative_to(max, factor);
  const RunningSums<S> right = b.relative_to(max, factor);
  return {max, left.sum + right.sum, left.weighted + right.weighted, left.squares + right.squares};
}

// Sum, maximum and argmax of y over a part of a row. Among equal maxima, `index` is the first.
template <class S>
struct Totals {
  S total;
  S largest;
  int64_t index;  // kNone if no y exceeds -inf

  static constexpr int64_t kNone = INT64_MAX;
  static SK_INLINE Totals empty() { return {0, -INFINITY, kNone}; }
};

// Totals of the part of a row before index `first`, extended by the tile that begins there.
SK_INLINE Totals<double> followed_by(const Totals<double>& row, const Totals<double>& tile, int64_t first) {
  const bool raised = tile.largest > row.largest;
  return {row.total + tile.total, raised ? tile.largest : row.largest, raised ? first + tile.index : row.index};
}

// Sums and totals of a part of a row.
template <class S>
struct RowSums {
  RunningSums<S> running;
  Totals<S> totals;

  static SK_INLINE RowSums empty() { return {RunningSums<S>::empty(), Totals<S>::empty()}; }
};

// Optimistic maximum: few parts of a row raise the running maximum, and by little, so a part is first summed relative
// to it, or to `guess()` where there is none yet, without the search for its own maximum. A sum below this bound proves
// that no element exceeds the reference by enough to cost accuracy; otherwise the part is summed again relative to its
// own maximum.
constexpr double kTrustedSum = 65536;

// Merges a part of a row into `running`. guess() is one of the part's elements or -inf, max() its maximum,
// sums(reference) its sums relative to `reference`.
template <class S, class Guess, class Max, class Sums>
SK_INLINE void accumulate_part(RunningSums<S>& running, S factor, const Guess& guess, const Max& max,
                               const Sums& sums) {
  const S reference = running.sum > 0 ? running.max : guess();
  if (reference > -INFINITY) {
    const RunningSums<S> part = sums(reference);
    if (part.sum < static_cast<S>(kTrustedSum)) {
      running = {reference, running.sum + part.sum, running.weighted + part.weighted, running.squares + part.squares};
      return;
    }
  }
  const S part_max = max();
  running = merge(running, sums(running.max > part_max ? running.max : part_max), factor);
}

// Results of a whole row's sums, in nats. Both terms of the entropy are >= 0 since d <= 0: nothing cancels.
SK_INLINE double log_sum_exp(const Running& row, double factor) { return kLn2 * (factor * row.max + ::log2(row.sum)); }
SK_INLINE double logprob_of(double label_y, const Running& row, double factor) {
  return kLn2 * (factor * (label_y - row.max) - ::log2(row.sum));
}
SK_INLINE double entropy_of(const Running& row) { return kLn2 * (::log2(row.sum) - row.weighted / row.sum); }

// Sum of p^2, mean of z over the vocabulary, and whether the label is the argmax (the first of equal maxima). NaN, NaN
// and false for a row that is no distribution.
SK_INLINE double sum_squares_of(const Running& row) { return row.squares / (row.sum * row.sum); }
SK_INLINE double mean_logit_of(const RowSums<double>& row, double factor, int64_t vocabulary) {
  return row.running.sum > 0 ? kLn2 * factor * (row.totals.total / static_cast<double>(vocabulary)) : NAN;
}
SK_INLINE bool is_argmax(const RowSums<double>& row, int64_t label) {
  return row.running.sum > 0 && row.totals.index == label;
}

}  // namespace segkernel
