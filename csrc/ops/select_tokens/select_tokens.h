// Selection of the k first-ranked of a row's n valid tokens: the value of k, and the rank of a token.
#pragma once

#include <math.h>

#include <limits>
#include <type_traits>

#include "../../core/inline.h"
#include "../../core/rows.h"

namespace segkernel {

// ceil or floor of fraction * n in float64. A product that differs from an integer by the rounding of `fraction` to
// float32, at most 2^-23 of the product and never more than 2^-10, counts as that integer: 0.07 * 100 is
// 7.000000000000001 in float64, and 7 here.
SK_HOST_DEVICE inline int64_t rounded_share(double fraction, int64_t n, bool round_up) {
  const double product = fraction * static_cast<double>(n);
  if (!(product > 0)) return 0;  // also NaN, which only unchecked fractions can be
  if (product >= static_cast<double>(n)) return n;
  const double nearest = ::rint(product);
  const double tolerance = ::fmin(product * 0x1p-23, 0x1p-10);
  // Comparisons, since a difference of product and nearest might be contracted to a fused multiply-add.
  const bool is_integer = nearest - tolerance <= product && product <= nearest + tolerance;
  return static_cast<int64_t>(is_integer ? nearest : round_up ? ::ceil(product) : ::floor(product));
}

// The number of tokens to select, per row: a share of the valid tokens, or a count.
struct SelectionSize {
  bool by_fraction;
  PerRow<double> fractions;
  PerRow<int64_t> counts;
  bool round_up;

  // k for the `n` valid tokens of a row.
  SK_HOST_DEVICE int64_t of(int64_t row, int64_t n) const {
    if (by_fraction) return rounded_share(fractions[row], n, round_up);
    const int64_t count = counts[row];
    return count < 0 ? 0 : count < n ? count : n;
  }
};

template <class C>
using RankKey = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;

// The rank of a value as an integer: tokens with larger keys are selected first, and of equal keys the earlier token.
// The sign and magnitude of a float as two's complement keep its order, with one zero: -1 < -0.0 == 0.0 < 1. A NaN has
// the lowest key, whether the largest or the smallest values are selected.
template <class C>
SK_INLINE RankKey<C> rank_key(C value, bool largest) {
  using Key = RankKey<C>;
  Key bits;
  memcpy(&bits, &value, sizeof(bits));
  if (value != value) return std::numeric_limits<Key>::min();
  const Key magnitude = bits & std::numeric_limits<Key>::max();
  return (bits < 0) == largest ? -magnitude : magnitude;
}

}  // namespace segkernel
