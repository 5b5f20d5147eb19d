// State of linear_token_logprobs for one row of logits, which is computed a tile at a time: a tile holds the logits of
// all rows for the slice [first, first + width) of the vocabulary.
//
// `sums` [n, 7], float64: RowSums<double> of every row. `label_y` [n], float64: the y of the row's label, NaN until the
// label's tile; it stays NaN if the label is out of range.
#pragma once

#include "../token_logprobs/token_logprobs_arguments.h"
#include "../token_logprobs/token_logprobs_outputs.h"

namespace segkernel {

constexpr int64_t kRowSums = sizeof(RowSums<double>) / sizeof(double);

// Index of the label in the tile, or -1.
SK_INLINE int64_t index_in_tile(int64_t label, int64_t first, int64_t width) {
  return label >= first && label < first + width ? label - first : -1;
}

// Results of one row from its state. Logits of a row with an ignored label are never read.
SK_INLINE void finish_row(const OutputPointers<double>& out, int64_t row, int64_t label, double label_y,
                          const RowSums<double>& sums, double factor, int64_t vocabulary) {
  if (label == kIgnoredLabel) return out.fill<Outputs::statistics>(row, 0);
  if (label_y != label_y) return out.fill<Outputs::statistics>(row, NAN);
  out.write<Outputs::statistics>(row, label, label_y, sums, factor, vocabulary);
}

}  // namespace segkernel
