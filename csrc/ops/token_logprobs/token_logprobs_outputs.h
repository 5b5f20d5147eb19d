// Outputs of `token_logprobs` in the shape of `labels`, and log sum exp in float64, which the gradient needs.
#pragma once

#include <tuple>

#include "../../torch/outputs.h"
#include "token_logprobs.h"

namespace segkernel {

using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Outputs outputs_of(int64_t code) {
  check_code("outputs", code, static_cast<int64_t>(Outputs::statistics));
  return static_cast<Outputs>(code);
}

inline ScalarType compute_dtype(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Results of all rows, of type C. Pointers to outputs that are not computed are null.
template <class C>
struct OutputPointers {
  C* logprobs;
  C* entropies;
  double* lses;
  C* sum_squares;
  C* mean_logits;
  bool* is_argmax;

  // Results of a row [index] of scored logits, from its sums.
  template <Outputs kOutputs>
  SK_INLINE void write(int64_t row, int64_t label, double label_y, const RowSums<double>& sums, double factor,
                       int64_t vocabulary) const {
    logprobs[row] = static_cast<C>(logprob_of(label_y, sums.running, factor));
    lses[row] = log_sum_exp(sums.running, factor);
    if constexpr (has_entropies(kOutputs)) entropies[row] = static_cast<C>(entropy_of(sums.running));
    if constexpr (has_statistics(kOutputs)) {
      sum_squares[row] = static_cast<C>(sum_squares_of(sums.running));
      mean_logits[row] = static_cast<C>(mean_logit_of(sums, factor, vocabulary));
      is_argmax[row] = segkernel::is_argmax(sums, label);
    }
  }

  // The same value, and false, for all results of a row that is not scored.
  template <Outputs kOutputs>
  SK_INLINE void fill(int64_t row, double value) const {
    logprobs[row] = static_cast<C>(value);
    lses[row] = value;
    if constexpr (has_entropies(kOutputs)) entropies[row] = static_cast<C>(value);
    if constexpr (has_statistics(kOutputs)) {
      sum_squares[row] = mean_logits[row] = static_cast<C>(value);
      is_argmax[row] = false;
    }
  }
};

// Output tensors, uninitialized; those that are not computed are [0].
class LogprobOutputs {
 public:
  LogprobOutputs(ScalarType dtype, const Tensor& labels, Outputs outputs)
      : logprobs_(like(labels, dtype, true)),
        entropies_(like(labels, dtype, has_entropies(outputs))),
        lses_(like(labels, ScalarType::Double, true)),
        sum_squares_(like(labels, dtype, has_statistics(outputs))),
        mean_logits_(like(labels, dtype, has_statistics(outputs))),
        is_argmax_(like(labels, ScalarType::Bool, has_statistics(outputs))) {}

  template <class C>
  OutputPointers<C> pointers() const {
    return {mutable_data<C>(logprobs_),    mutable_data<C>(entropies_),   mutable_data<double>(lses_),
            mutable_data<C>(sum_squares_), mutable_data<C>(mean_logits_), mutable_data<bool>(is_argmax_)};
  }
  SixTensors tensors() const { return {logprobs_, entropies_, lses_, sum_squares_, mean_logits_, is_argmax_}; }

 private:
  static Tensor like(const Tensor& labels, ScalarType dtype, bool wanted) {
    return wanted ? torch::stable::new_empty(labels, labels.sizes(), dtype)
                  : torch::stable::new_empty(labels, {0}, dtype);
  }
  Tensor logprobs_, entropies_, lses_, sum_squares_, mean_logits_, is_argmax_;
};

}  // namespace segkernel
