#include "../../torch/dispatch.h"
#include "../../torch/outputs.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "token_logprobs_arguments.h"
#include "token_logprobs_dispatch.h"
#include "token_logprobs_outputs.h"
#include "token_logprobs_row_gradients.h"
#include "token_logprobs_transform.h"

namespace segkernel {

// logits [..., V], labels [...] or [..., K] -> LogprobOutputs. `inplace_backward` is read by the registered derivative
// only.
SixTensors token_logprobs_cpu(const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                              const OptionalTensor& token_temperature, double logit_scale, double temperature,
                              std::optional<double> softcap, int64_t outputs_code, bool inplace_backward) {
  const Outputs outputs = outputs_of(outputs_code);
  const LogitRows rows(logits);
  const RowLabels row_labels = RowLabels::of(labels, rows.positions);
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, rows.positions.count);
  const RowPartition partition(rows.positions, rows.vocabulary, row_labels,
                               data<bool>("mask", mask, rows.positions.count), transforms.temperatures);
  const LogprobOutputs results(compute_dtype(logits), labels, rows.positions, row_labels.per_row, outputs);

  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = static_cast<const T*>(logits.const_data_ptr());
    const OutputPointers<C> out = results.pointers<C>();
    const RowKernels<T>& kernels = row_kernels(T{});
    dispatch_outputs(outputs, [&](auto wanted) {
      for (const int64_t row : partition.masked) out.template fill<wanted>(row, 0);
    });
    const auto count = static_cast<int64_t>(partition.valid.size());
    for_each_row(count, count * rows.vocabulary, [&](int64_t i) {
      const int64_t row = partition.valid[i];
      const T* values = in + rows.offset(row);
      const LogitTransform transform = transforms.of<C>(row);
      auto sums = RowSums<double>::empty();
      kernels.accumulate(values, rows.vocabulary, 0, transform, outputs, sums);
      dispatch_outputs(outputs, [&](auto wanted) {
        out.template write_row<wanted>(row, sums, transform.factor, rows.vocabulary);
        for (int64_t k = 0; k < row_labels.per_row; ++k) {
          const int64_t label = row_labels[row][k];
          const double label_y = label == kIgnoredLabel ? 0 : y_of(values + label, transform, kernels);
          out.template write_label<wanted>(row, k, label, label_y, sums, transform.factor);
        }
      });
    });
  });
  return results.tensors();
}

namespace {

// Writes d loss / d logits of all rows to `grad` [..., V], of any leading strides; it may be the logits' own storage.
void write_gradient(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy, const Tensor& logits,
                    const Tensor& labels, const OptionalTensor& mask, const Tensor& entropy, const Tensor& lse,
                    const OptionalTensor& token_temperature, double logit_scale, double temperature,
                    std::optional<double> softcap, const Tensor& grad) {
  const LogitRows rows(logits);
  const LogitRows grad_rows(grad);
  const RowLabels row_labels = RowLabels::of(labels, rows.positions);
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, rows.positions.count);
  const RowPartition partition(rows.positions, rows.vocabulary, row_labels,
                               data<bool>("mask", mask, rows.positions.count), transforms.temperatures);
  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = static_cast<const T*>(logits.const_data_ptr());
    T* out = mutable_data<T>(grad);
    const auto gradients =
        row_gradients<C>(grad_logprobs, grad_entropy, entropy, lse, rows.positions.count, row_labels.per_row);
    const RowKernels<T>& kernels = row_kernels(T{});
    const auto count = static_cast<int64_t>(partition.valid.size());
    for_each_row(count, count * rows.vocabulary, [&](int64_t i) {
      const int64_t row = partition.valid[i];
      const T* values = in + rows.offset(row);
      T* row_grad = out + grad_rows.offset(row);
      const LogitTransform transform = transforms.of<C>(row);
      write_row_gradient(values, row_grad, rows.vocabulary, 0, row, row_labels[row], transform, gradients, kernels);
    });
    const auto masked = static_cast<int64_t>(partition.masked.size());
    for_each_row(masked, masked * rows.vocabulary, [&](int64_t i) {
      std::memset(out + grad_rows.offset(partition.masked[i]), 0, rows.vocabulary * sizeof(T));
    });
  });
}

}  // namespace

Tensor token_logprobs_backward_cpu(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                   const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                                   const OptionalTensor& token_temperature, const Tensor& entropy, const Tensor& lse,
                                   double logit_scale, double temperature, std::optional<double> softcap) {
  Tensor grad = torch::stable::new_empty(logits, logits.sizes());
  write_gradient(grad_logprobs, grad_entropy, logits, labels, mask, entropy, lse, token_temperature, logit_scale,
                 temperature, softcap, grad);
  return grad;
}

void token_logprobs_backward_in_place_cpu(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                          const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                                          const OptionalTensor& token_temperature, const Tensor& entropy,
                                          const Tensor& lse, double logit_scale, double temperature,
                                          std::optional<double> softcap) {
  write_gradient(grad_logprobs, grad_entropy, logits, labels, mask, entropy, lse, token_temperature, logit_scale,
                 temperature, softcap, logits);
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("token_logprobs", TORCH_BOX(&segkernel::token_logprobs_cpu));
  library.impl("token_logprobs_backward", TORCH_BOX(&segkernel::token_logprobs_backward_cpu));
  library.impl("token_logprobs_backward_", TORCH_BOX(&segkernel::token_logprobs_backward_in_place_cpu));
}
