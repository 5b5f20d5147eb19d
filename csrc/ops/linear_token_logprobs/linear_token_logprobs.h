// State of linear_token_logprobs for one row of logits, which is computed a tile at a time: a tile holds the logits of
// all rows for the slice [first, first + width) of the vocabulary.
//
// `sums` [n, 7], float64: RowSums<double> of every row. `label_y` [n, K], float64: y at the row's labels; NaN before
// the tile that has the label, and at the end if the label is out of range.
#pragma once

#include "../token_logprobs/token_logprobs_arguments.h"
#include "../token_logprobs/token_logprobs_outputs.h"

namespace segkernel {

constexpr int64_t kRowSums = sizeof(RowSums<double>) / sizeof(double);

// Index of the label in the tile, or -1.
SK_INLINE int64_t index_in_tile(int64_t label, int64_t first, int64_t width) {
  return label >= first && label < first + width ? label - first : -1;
}

// Positions of the rows: the first `dims` dimensions of the labels, all of them or all but the last.
inline Positions row_positions(const Tensor& labels, int64_t dims) {
  check(dims == labels.dim() || dims + 1 == labels.dim(), "dims", "expected ", labels.dim(), " or one less, got ",
        dims);
  check(dims >= 0, "dims", "expected >= 0, got ", dims);
  return Positions(labels, dims);
}

// Whether all labels of a row are ignored. Its logits are never read.
SK_INLINE bool all_ignored(const int64_t* labels, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    if (labels[k] != kIgnoredLabel) return false;
  }
  return true;
}

// Results of one row from its state: the row's labels, their y, and the sums.
SK_INLINE void finish_row(const OutputPointers<double>& out, int64_t row, const int64_t* labels, const double* label_y,
                          const RowSums<double>& sums, double factor, int64_t vocabulary) {
  constexpr Outputs kAll = Outputs::statistics;
  const int64_t count = out.labels_per_row;
  if (all_ignored(labels, count)) return out.fill<kAll>(row, 0);
  for (int64_t k = 0; k < count; ++k) {
    if (labels[k] != kIgnoredLabel && label_y[k] != label_y[k]) return out.fill<kAll>(row, NAN);
  }
  out.write_row<kAll>(row, sums, factor, vocabulary);
  for (int64_t k = 0; k < count; ++k) out.write_label<kAll>(row, k, labels[k], label_y[k], sums, factor);
}

}  // namespace segkernel
