// Divergence of p = softmax(z) and q = softmax(z_other), two rows of logits over the same vocabulary.
//
// The sums of both rows and of their cross term run side by side over the same parts, by online softmax
// (token_logprobs.h). With a = factor * (x - max) and b = factor * (y - other max), logarithms in base 2:
//
//   KL(p || q) = sum_i p_i (log p_i - log q_i) = cross / sum - log(sum) + log(other sum),
//   cross = sum_i 2^a_i (a_i - b_i).
//
// The Jensen-Shannon divergence and the total variation distance need normalized probabilities in every term, so they
// take a second pass.
#pragma once

#include "../token_logprobs/token_logprobs.h"

namespace segkernel {

// kl: KL(p || q). reverse_kl: KL(q || p). js: beta KL(q || m) + (1 - beta) KL(p || m) with m = beta q + (1 - beta) p.
// tv: sum_i |p_i - q_i| / 2. In sync with DIVERGENCE in segkernel/_enums.py.
enum class Divergence : int { kl, reverse_kl, js, tv };

constexpr bool takes_second_pass(Divergence kind) { return kind == Divergence::js || kind == Divergence::tv; }

// Calls `body` with the kind as its template argument.
template <class Body>
auto dispatch_divergence(Divergence kind, const Body& body) {
  if (kind == Divergence::reverse_kl) return body.template operator()<Divergence::reverse_kl>();
  if (kind == Divergence::js) return body.template operator()<Divergence::js>();
  if (kind == Divergence::tv) return body.template operator()<Divergence::tv>();
  return body.template operator()<Divergence::kl>();
}

// Sums over a part of two rows. A logit of -inf has a cross term of 0 if it is in the first row, and of inf if it is
// only in the second.
template <class S>
struct PairSums {
  RunningSums<S> first;
  RunningSums<S> second;
  S cross;

  static SK_INLINE PairSums empty() { return {RunningSums<S>::empty(), RunningSums<S>::empty(), 0}; }

  SK_INLINE PairSums relative_to(S first_reference, S second_reference, S factor) const {
    return {first.relative_to(first_reference, factor), second.relative_to(second_reference, factor),
            cross_relative_to(first_reference, second_reference, factor)};
  }

 private:
  SK_INLINE S cross_relative_to(S first_reference, S second_reference, S factor) const {
    const bool same = first.max == first_reference && second.max == second_reference;
    if (same || cross == INFINITY) return cross;
    const S shift = first.max == first_reference ? 0 : factor * (first.max - first_reference);
    const S scale = fast_exp2(shift);
    if (scale == 0 || first.sum == 0) return 0;
    const S other_shift = second.max == second_reference ? 0 : factor * (second.max - second_reference);
    return scale * (cross + (shift - other_shift) * first.sum);
  }
};

template <class S>
SK_INLINE PairSums<S> merge(const PairSums<S>& a, const PairSums<S>& b, S factor) {
  const S first_max = b.first.max > a.first.max ? b.first.max : a.first.max;
  const S second_max = b.second.max > a.second.max ? b.second.max : a.second.max;
  const PairSums<S> left = a.relative_to(first_max, second_max, factor);
  const PairSums<S> right = b.relative_to(first_max, second_max, factor);
  return {{first_max, left.first.sum + right.first.sum, left.first.weighted + right.first.weighted, 0},
          {second_max, left.second.sum + right.second.sum, left.second.weighted + right.second.weighted, 0},
          left.cross + right.cross};
}

// Two values, one per row.
template <class S>
struct Pair {
  S first, second;
};

// `accumulate_part` of token_logprobs.h for a part of two rows. guesses() and maxima() are pairs, and
// sums(first reference, second reference) are the part's PairSums.
template <class S, class Guesses, class Maxima, class Sums>
SK_INLINE void accumulate_pair_part(PairSums<S>& running, S factor, const Guesses& guesses, const Maxima& maxima,
                                    const Sums& sums) {
  Pair<S> reference{running.first.max, running.second.max};
  if (!(running.first.sum > 0) || !(running.second.sum > 0)) {
    const Pair<S> guess = guesses();
    if (!(running.first.sum > 0)) reference.first = guess.first;
    if (!(running.second.sum > 0)) reference.second = guess.second;
  }
  if (reference.first > -INFINITY && reference.second > -INFINITY) {
    const PairSums<S> part = sums(reference.first, reference.second);
    if (part.first.sum < static_cast<S>(kTrustedSum) && part.second.sum < static_cast<S>(kTrustedSum)) {
      running = merge(running, part, factor);
      return;
    }
  }
  const Pair<S> max = maxima();
  running = merge(running,
                  sums(running.first.max > max.first ? running.first.max : max.first,
                       running.second.max > max.second ? running.second.max : max.second),
                  factor);
}

// KL(first || second) of whole rows in nats; rounding may make it slightly negative.
SK_INLINE double kl_of(const PairSums<double>& rows) {
  return kLn2 * (rows.cross / rows.first.sum - ::log2(rows.first.sum) + ::log2(rows.second.sum));
}

SK_INLINE double not_negative(double divergence) { return divergence < 0 ? 0 : divergence; }

// log sum exp of a row as a reference in units of y, exact in float, and the rest:
// log2 p = factor * (y - reference) - rest.
struct Normalizer {
  double reference;
  double rest;

  static SK_INLINE Normalizer make(double lse, double factor) {
    const double lse2 = lse * kLog2E;
    const auto reference = static_cast<float>(lse2 / factor);
    return {reference, lse2 - factor * reference};
  }
};

// Sums of the second pass. js: sum_i p_i log2(p_i / m_i) and sum_i q_i log2(q_i / m_i), before the factor 2^-rest of p.
// tv: sum_i |p_i - q_i| and sum_i p_i sign(p_i - q_i).
struct ShapeSums {
  double first;
  double second;
};

// Results of a row that its gradient needs, a row of the operator's output `state` [..., 4], float64. `center` is the
// mean under p of the term that multiplies p_i in the gradient of the divergence: KL(p || q) for kl, KL(p || m) for js,
// sum_i p_i sign(p_i - q_i) for tv. reverse_kl does not use it.
struct PairState {
  double lse;
  double other_lse;
  double entropy;
  double center;
};
static_assert(sizeof(PairState) == 4 * sizeof(double));

struct RowDivergence {
  double divergence;
  double center;
};

SK_INLINE RowDivergence finish_shape(Divergence kind, double beta, const ShapeSums& sums, const Normalizer& of_row) {
  // Comparisons with NaN are false, so a NaN in the sum of differences is missing from the sum of signs.
  if (kind == Divergence::tv) return {sums.first / 2, sums.first == sums.first ? sums.second : NAN};
  const double scale = kLn2 * ::exp2(-of_row.rest);
  const double from_row = scale * sums.first, from_other = scale * sums.second;
  return {not_negative(beta * from_other + (1 - beta) * from_row), from_row};
}

}  // namespace segkernel
