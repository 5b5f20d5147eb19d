// Arguments and outputs of `token_divergences`, shared by the CPU's and the CUDA operator.
#pragma once

#include <utility>
#include <vector>

#include "../../torch/outputs.h"
#include "../token_logprobs/token_logprobs_arguments.h"
#include "../token_logprobs/token_logprobs_transform.h"
#include "token_divergences_gradient.h"

namespace segkernel {

inline Divergence divergence_kind(int64_t kind, double beta) {
  check_code("kind", kind, static_cast<int64_t>(Divergence::tv));
  check(beta > 0 && beta < 1, "beta", "expected 0 < beta < 1, got ", beta);
  return static_cast<Divergence>(kind);
}

// The rows of two tensors of logits of one shape and dtype.
struct LogitRowPairs {
  LogitRowPairs(const Tensor& logits, const Tensor& other_logits, const Device& device = {})
      : rows(logits, device), others(other_logits, device) {
    check(other_logits.scalar_type() == logits.scalar_type(), "other_logits", "expected dtype ",
          toString(logits.scalar_type()), ", got ", toString(other_logits.scalar_type()));
    check(others.positions.sizes == rows.positions.sizes && others.vocabulary == rows.vocabulary, "other_logits",
          "expected the shape of logits");
  }

  int64_t count() const { return rows.positions.count; }

  LogitRows rows;
  LogitRows others;
};

// Uninitialized, in the leading shape of the logits: divergences, entropies, other entropies, label log-probabilities
// of both rows ([0] without labels), and `state` [..., 4].
struct DivergenceOutputs {
  Tensor divergence, entropy, other_entropy, logprobs, other_logprobs, state;

  DivergenceOutputs(const Tensor& logits, const LogitRowPairs& pairs, bool has_labels) {
    const auto& sizes = pairs.rows.positions.sizes;
    const std::vector<int64_t> of_labels = has_labels ? sizes : std::vector<int64_t>{0};
    std::vector<int64_t> with_state = sizes;
    with_state.push_back(sizeof(PairState) / sizeof(double));
    const ScalarType dtype = compute_dtype(logits);
    divergence = torch::stable::new_empty(logits, sizes, dtype);
    entropy = torch::stable::new_empty(logits, sizes, dtype);
    other_entropy = torch::stable::new_empty(logits, sizes, dtype);
    logprobs = torch::stable::new_empty(logits, of_labels, dtype);
    other_logprobs = torch::stable::new_empty(logits, of_labels, dtype);
    state = torch::stable::new_empty(logits, with_state, ScalarType::Double);
  }
};

// Pointers to DivergenceOutputs. `logprobs` are null without labels.
template <class C>
struct DivergencePointers {
  C* divergence;
  C* entropy;
  C* other_entropy;
  C* logprobs;
  C* other_logprobs;
  PairState* state;

  DivergencePointers(const DivergenceOutputs& outputs, bool has_labels)
      : divergence(mutable_data<C>(outputs.divergence)),
        entropy(mutable_data<C>(outputs.entropy)),
        other_entropy(mutable_data<C>(outputs.other_entropy)),
        logprobs(has_labels ? mutable_data<C>(outputs.logprobs) : nullptr),
        other_logprobs(has_labels ? mutable_data<C>(outputs.other_logprobs) : nullptr),
        state(reinterpret_cast<PairState*>(mutable_data<double>(outputs.state))) {}

  SK_INLINE void write(int64_t row, double divergence_of_row, const PairState& state_of_row,
                       double other_entropy_of_row) const {
    divergence[row] = static_cast<C>(divergence_of_row);
    entropy[row] = static_cast<C>(state_of_row.entropy);
    other_entropy[row] = static_cast<C>(other_entropy_of_row);
    state[row] = state_of_row;
  }
  SK_INLINE void write_logprobs(int64_t row, double logprob, double other_logprob) const {
    if (logprobs == nullptr) return;
    logprobs[row] = static_cast<C>(logprob);
    other_logprobs[row] = static_cast<C>(other_logprob);
  }
  // Row that is not scored: 0, or NaN for a label out of range.
  SK_INLINE void fill(int64_t row, double value) const {
    write(row, value, {value, value, value, value}, value);
    write_logprobs(row, value, value);
  }
};

// The outputs' gradients and `state`, checked.
template <class C>
struct DivergenceGradients {
  PairUpstreams<C> upstream;
  const PairState* state;

  DivergenceGradients(const OptionalTensor& grad_divergence, const OptionalTensor& grad_entropy,
                      const OptionalTensor& grad_logprobs, const OptionalTensor& labels, const Tensor& state_tensor,
                      int64_t count, const Device& device = {})
      : upstream{data<C>("grad_divergence", grad_divergence, count, device),
                 data<C>("grad_entropy", grad_entropy, count, device),
                 data<C>("grad_logprobs", grad_logprobs, count, device)},
        state(reinterpret_cast<const PairState*>(
            data<double>("state", state_tensor, count * int64_t{sizeof(PairState) / sizeof(double)}, device))) {
    check(!grad_logprobs.has_value() || labels.has_value(), "grad_logprobs", "expected None without labels");
  }
};

}  // namespace segkernel
