// Arguments of select_tokens: the number of tokens to select, and the rows among which they are selected.
#pragma once

#include "../../torch/arguments.h"
#include "../../torch/rows.h"
#include "select_tokens.h"

namespace segkernel {

// The whole batch as one row, or its rows.
inline Rows selection_rows(const RowsOf& rows, int64_t tokens, bool whole_batch) {
  return whole_batch ? Rows{tokens == 0 ? 0 : 1, tokens, {}} : *rows;
}

inline SelectionSize selection_size(std::optional<double> fraction, const OptionalTensor& row_fraction,
                                    std::optional<int64_t> count, const OptionalTensor& row_count, bool round_up,
                                    int64_t rows, const Device& device = {}) {
  const bool by_fraction = fraction.has_value() || row_fraction.has_value();
  const bool by_count = count.has_value() || row_count.has_value();
  check(by_fraction != by_count, "select_tokens", "expected fraction or count, got ", by_count ? "both" : "neither");
  check_share("fraction", {fraction.value_or(0), nullptr}, 1);
  check_not_negative("count", PerRow<int64_t>{count.value_or(0), nullptr}, 1);
  return {.by_fraction = by_fraction,
          .fractions = {fraction.value_or(0), data<double>("fraction", row_fraction, rows, device)},
          .counts = {count.value_or(0), data<int64_t>("count", row_count, rows, device)},
          .round_up = round_up};
}

}  // namespace segkernel
