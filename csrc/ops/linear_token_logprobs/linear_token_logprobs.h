// State of linear_token_logprobs for one row of logits, which is computed a tile at a time: a tile holds the logits of
// all rows for the slice [first, first + width) of the vocabulary.
#pragma once

#include "../token_logprobs/token_logprobs.h"

namespace segkernel {

struct RowResult {
  double logprob;
  double entropy;
  double lse;
};

// A row of `state` [n, 4], float64.
struct RowState {
  Running sums;
  double label_y;  // NaN until the label's tile; stays NaN if the label is out of range

  static SK_INLINE RowState empty() { return {Running::empty(), NAN}; }
  // State of a row with the label kIgnoredLabel, whose logits are never read: all results are 0.
  static SK_INLINE RowState ignored() { return {{0.0, 1.0, 0.0}, 0.0}; }

  SK_INLINE RowResult result(double factor) const {
    if (label_y != label_y) return {NAN, NAN, NAN};
    return {logprob_of(label_y, sums, factor), entropy_of(sums), log_sum_exp(sums, factor)};
  }
};
static_assert(sizeof(RowState) == 4 * sizeof(double));

// Index of the label in the tile, or -1.
SK_INLINE int64_t index_in_tile(int64_t label, int64_t first, int64_t width) {
  return label >= first && label < first + width ? label - first : -1;
}

}  // namespace segkernel
