#include <cstring>
#include <tuple>

#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../token_logprobs/token_logprobs_dispatch.h"
#include "token_divergences_dispatch.h"
#include "token_divergences_tensors.h"
#include "token_divergences_terms.h"

namespace segkernel {

namespace {

// Partition into rows that are read and masked ones.
struct PairPartition {
  std::vector<int64_t> valid;
  std::vector<int64_t> masked;

  // Throws as RowPartition does.
  PairPartition(const LogitRows& rows, const int64_t* labels, const bool* mask, const double* temperatures) {
    if (labels != nullptr) {
      RowPartition partition(rows.positions, rows.vocabulary, RowLabels{labels, 1}, mask, temperatures);
      valid = std::move(partition.valid);
      masked = std::move(partition.masked);
      return;
    }
    for (int64_t row = 0; row < rows.positions.count; ++row) {
      (is_valid(mask, row) ? valid : masked).push_back(row);
      if (is_valid(mask, row)) check_temperature(temperatures, rows.positions, row);
    }
  }
};

struct DivergedRow {
  double divergence;
  PairState state;
  double other_entropy;
};

template <class T>
DivergedRow diverge(Divergence kind, double beta, const T* logits, const T* others, int64_t vocabulary,
                    const LogitTransform& transform) {
  const PairKernels<T>& kernels = pair_kernels(T{});
  auto sums = PairSums<double>::empty();
  const bool reversed = kind == Divergence::reverse_kl;
  kernels.accumulate(reversed ? others : logits, reversed ? logits : others, vocabulary, transform,
                     !takes_second_pass(kind), sums);
  const Running& of_row = reversed ? sums.second : sums.first;
  const Running& of_other = reversed ? sums.first : sums.second;
  DivergedRow row{};
  row.state = {log_sum_exp(of_row, transform.factor), log_sum_exp(of_other, transform.factor), entropy_of(of_row), 0};
  row.other_entropy = entropy_of(of_other);
  if (!takes_second_pass(kind)) {
    row.state.center = kl_of(sums);
    row.divergence = not_negative(row.state.center);
    return row;
  }
  const Normalizer normalizer = Normalizer::make(row.state.lse, transform.factor);
  const Normalizer other_normalizer = Normalizer::make(row.state.other_lse, transform.factor);
  const ShapeSums shape =
      kernels.shape(kind, logits, others, vocabulary, transform, beta, normalizer, other_normalizer);
  const RowDivergence result = finish_shape(kind, beta, shape, normalizer);
  row.divergence = result.divergence;
  row.state.center = result.center;
  return row;
}

}  // namespace

// logits, other_logits [..., V] -> DivergenceOutputs. `inplace_backward` is read by the registered derivative only.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> token_divergences_cpu(
    const Tensor& logits, const Tensor& other_logits, const OptionalTensor& labels, const OptionalTensor& mask,
    const OptionalTensor& token_temperature, int64_t kind_code, double beta, double logit_scale, double temperature,
    std::optional<double> softcap, bool inplace_backward) {
  const Divergence kind = divergence_kind(kind_code, beta);
  const LogitRowPairs pairs(logits, other_logits);
  const int64_t* label = data<int64_t>("labels", labels, pairs.count());
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, pairs.count());
  const PairPartition partition(pairs.rows, label, data<bool>("mask", mask, pairs.count()), transforms.temperatures);
  const DivergenceOutputs outputs(logits, pairs, labels.has_value());

  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(logits.const_data_ptr());
    const T* other_in = static_cast<const T*>(other_logits.const_data_ptr());
    const DivergencePointers<compute_t<T>> out(outputs, labels.has_value());
    for (const int64_t row : partition.masked) out.fill(row, 0);
    const auto count = static_cast<int64_t>(partition.valid.size());
    for_each_row(count, 2 * count * pairs.rows.vocabulary, [&](int64_t i) {
      const int64_t row = partition.valid[i];
      const T* values = in + pairs.rows.offset(row);
      const T* others = other_in + pairs.others.offset(row);
      const LogitTransform transform = transforms.of<compute_t<T>>(row);
      const DivergedRow result = diverge(kind, beta, values, others, pairs.rows.vocabulary, transform);
      out.write(row, result.divergence, result.state, result.other_entropy);
      if (label == nullptr) return;
      const RowKernels<T>& kernels = row_kernels(T{});
      const auto logprob = [&](const T* at, double lse) {
        return kLn2 * transform.factor * y_of(at, transform, kernels) - lse;
      };
      out.write_logprobs(row, logprob(values + label[row], result.state.lse),
                         logprob(others + label[row], result.state.other_lse));
    });
  });
  return {outputs.divergence, outputs.entropy,        outputs.other_entropy,
          outputs.logprobs,   outputs.other_logprobs, outputs.state};
}

namespace {

// Writes d loss / d logits of all rows to `grad` [..., V], of any leading strides; it may be the logits' own storage.
void write_gradient(const OptionalTensor& grad_divergence, const OptionalTensor& grad_entropy,
                    const OptionalTensor& grad_logprobs, const Tensor& logits, const Tensor& other_logits,
                    const OptionalTensor& labels, const OptionalTensor& mask, const OptionalTensor& token_temperature,
                    const Tensor& state, int64_t kind_code, double beta, double logit_scale, double temperature,
                    std::optional<double> softcap, const Tensor& grad) {
  const Divergence kind = divergence_kind(kind_code, beta);
  const LogitRowPairs pairs(logits, other_logits);
  const LogitRows grad_rows(grad);
  const int64_t* label = data<int64_t>("labels", labels, pairs.count());
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, pairs.count());
  const PairPartition partition(pairs.rows, label, data<bool>("mask", mask, pairs.count()), transforms.temperatures);
  const int64_t vocabulary = pairs.rows.vocabulary;
  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = static_cast<const T*>(logits.const_data_ptr());
    const T* other_in = static_cast<const T*>(other_logits.const_data_ptr());
    T* out = mutable_data<T>(grad);
    const DivergenceGradients<C> gradients(grad_divergence, grad_entropy, grad_logprobs, labels, state, pairs.count());
    const auto count = static_cast<int64_t>(partition.valid.size());
    for_each_row(count, 2 * count * vocabulary, [&](int64_t i) {
      const int64_t row = partition.valid[i];
      const T* values = in + pairs.rows.offset(row);
      const T* others = other_in + pairs.others.offset(row);
      T* row_grad = out + grad_rows.offset(row);
      const LogitTransform transform = transforms.of<C>(row);
      const PairUpstream upstream = gradients.upstream[row];
      const PairCoefficients coefficients = upstream.coefficients(kind, beta, transform, gradients.state[row]);
      double at_label = 0;
      if (upstream.logprob != 0) {
        const RowKernels<T>& kernels = row_kernels(T{});
        const double x = y_of(values + label[row], transform, kernels);
        const double y = y_of(others + label[row], transform, kernels);
        at_label = dispatch_divergence(kind, [&]<Divergence kKind>() {
          const auto gradient = transform.capped ? gradient_at_label<true, kKind> : gradient_at_label<false, kKind>;
          return gradient(x, y, upstream.logprob, transform, coefficients);
        });
      }
      pair_kernels(T{}).gradient(kind, values, others, row_grad, vocabulary, transform, coefficients);
      if (upstream.logprob != 0) row_grad[label[row]] = narrow<T>(static_cast<C>(at_label));
    });
    const auto masked = static_cast<int64_t>(partition.masked.size());
    for_each_row(masked, masked * vocabulary, [&](int64_t i) {
      std::memset(out + grad_rows.offset(partition.masked[i]), 0, vocabulary * sizeof(T));
    });
  });
}

}  // namespace

Tensor token_divergences_backward_cpu(const OptionalTensor& grad_divergence, const OptionalTensor& grad_entropy,
                                      const OptionalTensor& grad_logprobs, const Tensor& logits,
                                      const Tensor& other_logits, const OptionalTensor& labels,
                                      const OptionalTensor& mask, const OptionalTensor& token_temperature,
                                      const Tensor& state, int64_t kind, double beta, double logit_scale,
                                      double temperature, std::optional<double> softcap) {
  Tensor grad = torch::stable::new_empty(logits, logits.sizes());
  write_gradient(grad_divergence, grad_entropy, grad_logprobs, logits, other_logits, labels, mask, token_temperature,
                 state, kind, beta, logit_scale, temperature, softcap, grad);
  return grad;
}

void token_divergences_backward_in_place_cpu(const OptionalTensor& grad_divergence, const OptionalTensor& grad_entropy,
                                             const OptionalTensor& grad_logprobs, const Tensor& logits,
                                             const Tensor& other_logits, const OptionalTensor& labels,
                                             const OptionalTensor& mask, const OptionalTensor& token_temperature,
                                             const Tensor& state, int64_t kind, double beta, double logit_scale,
                                             double temperature, std::optional<double> softcap) {
  write_gradient(grad_divergence, grad_entropy, grad_logprobs, logits, other_logits, labels, mask, token_temperature,
                 state, kind, beta, logit_scale, temperature, softcap, logits);
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("token_divergences", TORCH_BOX(&segkernel::token_divergences_cpu));
  library.impl("token_divergences_backward", TORCH_BOX(&segkernel::token_divergences_backward_cpu));
  library.impl("token_divergences_backward_", TORCH_BOX(&segkernel::token_divergences_backward_in_place_cpu));
}
