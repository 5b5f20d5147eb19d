// Outputs of `token_logprobs` in the shape of `labels`, and log sum exp in float64, which the gradient needs.
#pragma once

#include <tuple>

#include "../../torch/outputs.h"
#include "token_logprobs.h"
#include "token_logprobs_arguments.h"

namespace segkernel {

using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Outputs outputs_of(int64_t code) {
  check_code("outputs", code, static_cast<int64_t>(Outputs::statistics));
  return static_cast<Outputs>(code);
}

// Results of all rows, of type C; log-probabilities and `is_argmax` of `labels_per_row` labels each. Pointers to
// outputs that are not computed are null.
template <class C>
struct OutputPointers {
  C* logprobs;
  C* entropies;
  double* lses;
  C* sum_squares;
  C* mean_logits;
  bool* is_argmax;
  int64_t labels_per_row;

  // Writes the results of a scored row that do not depend on its labels, from its sums.
  template <Outputs kOutputs>
  SK_INLINE void write_row(int64_t row, const RowSums<double>& sums, double factor, int64_t vocabulary) const {
    lses[row] = log_sum_exp(sums.running, factor);
    if constexpr (has_entropies(kOutputs)) entropies[row] = static_cast<C>(entropy_of(sums.running));
    if constexpr (has_statistics(kOutputs)) {
      sum_squares[row] = static_cast<C>(sum_squares_of(sums.running));
      mean_logits[row] = static_cast<C>(mean_logit_of(sums, factor, vocabulary));
    }
  }

  // Writes the results of label k of the row; 0 and false if it is ignored.
  template <Outputs kOutputs>
  SK_INLINE void write_label(int64_t row, int64_t k, int64_t label, double label_y, const RowSums<double>& sums,
                             double factor) const {
    const int64_t index = row * labels_per_row + k;
    const bool ignored = label == kIgnoredLabel;
    logprobs[index] = ignored ? C{0} : static_cast<C>(logprob_of(label_y, sums.running, factor));
    if constexpr (has_statistics(kOutputs)) is_argmax[index] = !ignored && segkernel::is_argmax(sums, label);
  }

  // Writes one value, and false, as all results of a row that is not scored.
  template <Outputs kOutputs>
  SK_INLINE void fill(int64_t row, double value) const {
    lses[row] = value;
    if constexpr (has_entropies(kOutputs)) entropies[row] = static_cast<C>(value);
    if constexpr (has_statistics(kOutputs)) sum_squares[row] = mean_logits[row] = static_cast<C>(value);
    for (int64_t index = row * labels_per_row; index < (row + 1) * labels_per_row; ++index) {
      logprobs[index] = static_cast<C>(value);
      if constexpr (has_statistics(kOutputs)) is_argmax[index] = false;
    }
  }
};

// Output tensors, uninitialized; those that are not computed are [0].
class LogprobOutputs {
 public:
  // The shapes are those of `labels` and of `rows`.
  LogprobOutputs(ScalarType dtype, const Tensor& labels, const Positions& rows, int64_t labels_per_row, Outputs outputs)
      : logprobs_(torch::stable::new_empty(labels, labels.sizes(), dtype)),
        entropies_(of_rows(labels, rows, dtype, has_entropies(outputs))),
        lses_(of_rows(labels, rows, ScalarType::Double, true)),
        sum_squares_(of_rows(labels, rows, dtype, has_statistics(outputs))),
        mean_logits_(of_rows(labels, rows, dtype, has_statistics(outputs))),
        is_argmax_(has_statistics(outputs) ? torch::stable::new_empty(labels, labels.sizes(), ScalarType::Bool)
                                           : torch::stable::new_empty(labels, {0}, ScalarType::Bool)),
        labels_per_row_(labels_per_row) {}

  template <class C>
  OutputPointers<C> pointers() const {
    return {mutable_data<C>(logprobs_),
            mutable_data<C>(entropies_),
            mutable_data<double>(lses_),
            mutable_data<C>(sum_squares_),
            mutable_data<C>(mean_logits_),
            mutable_data<bool>(is_argmax_),
            labels_per_row_};
  }
  SixTensors tensors() const { return {logprobs_, entropies_, lses_, sum_squares_, mean_logits_, is_argmax_}; }

 private:
  static Tensor of_rows(const Tensor& labels, const Positions& rows, ScalarType dtype, bool wanted) {
    return wanted ? torch::stable::new_empty(labels, rows.sizes, dtype) : torch::stable::new_empty(labels, {0}, dtype);
  }
  Tensor logprobs_, entropies_, lses_, sum_squares_, mean_logits_, is_argmax_;
  int64_t labels_per_row_;
};

}  // namespace segkernel
