// Log-probabilities, entropies and gradients: one thread block per row, which reads the row once. Blocks of masked rows
// exit without reading.
#include <tuple>

#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/outputs.h"
#include "../../torch/registration.h"
#include "token_logprobs_arguments.h"
#include "token_logprobs_device.cuh"
#include "token_logprobs_outputs.h"
#include "token_logprobs_row_gradients.h"
#include "token_logprobs_transform.h"

namespace segkernel {

namespace {

// The rows of a batch.
template <class T>
struct Batch {
  const T* logits;
  RowOffsets offset;
  int vocabulary;
  const int64_t* labels;
  const bool* mask;

  __device__ const T* row(int64_t row) const { return logits + offset(row); }
  __device__ RowKind kind(int64_t row, int64_t label) const { return kind_of(is_valid(mask, row), label, vocabulary); }
};

template <bool kCapped, bool kEntropy, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kLogitThreads, kBlocksPerMultiprocessor)
    token_logprobs_kernel(Batch<T> batch, LogitTransform transform, C* logprobs, C* entropies, double* lses) {
  const auto write = [&](double logprob, double entropy, double lse) {
    if (threadIdx.x != 0) return;
    logprobs[blockIdx.x] = static_cast<C>(logprob);
    if (kEntropy) entropies[blockIdx.x] = static_cast<C>(entropy);
    lses[blockIdx.x] = lse;
  };
  const int64_t label = batch.labels[blockIdx.x];
  const RowKind kind = batch.kind(blockIdx.x, label);
  if (kind == RowKind::masked) return write(0, 0, 0);
  if (kind == RowKind::label_out_of_range) return write(NAN, NAN, NAN);
  const T* row = batch.row(blockIdx.x);
  const C label_y = y_of<kCapped>(widen(row[label]), static_cast<C>(transform.inner));
  const Running sums = row_sums<kCapped, kEntropy>(row, batch.vocabulary, transform);
  if (threadIdx.x == 0) {
    write(logprob_of(label_y, sums, transform.factor), entropy_of(sums), log_sum_exp(sums, transform.factor));
  }
}

template <bool kCapped, bool kEntropy, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kLogitThreads, kBlocksPerMultiprocessor)
    gradient_kernel(Batch<T> batch, LogitTransform transform, RowGradients<C> gradients, T* grad,
                    RowOffsets grad_offset) {
  const int64_t row = blockIdx.x;
  T* row_grad = grad + grad_offset(row);
  const int64_t label = batch.labels[row];
  const RowKind kind = batch.kind(row, label);
  if (kind != RowKind::scored) {
    const C value = kind == RowKind::masked ? C{0} : C{NAN};
    return fill_row(row_grad, batch.vocabulary, narrow<T>(value));
  }
  write_row_gradient<kCapped, kEntropy>(batch.row(row), row_grad, batch.vocabulary, static_cast<int>(label), transform,
                                        gradients[row]);
}

template <class T>
Batch<T> batch_of(const Tensor& logits, const LogitRows& rows, const Tensor& labels, const OptionalTensor& mask,
                  const Device& device) {
  const int64_t count = rows.positions.count;
  check_row_length(rows.vocabulary);
  return {static_cast<const T*>(logits.const_data_ptr()), rows.offset, static_cast<int>(rows.vocabulary),
          data<int64_t>("labels", labels, count, device), data<bool>("mask", mask, count, device)};
}

}  // namespace

// As token_logprobs_cpu, except that a label out of range gives NaN.
std::tuple<Tensor, Tensor, Tensor> token_logprobs_cuda(const Tensor& logits, const Tensor& labels,
                                                       const OptionalTensor& mask, double logit_scale,
                                                       double temperature, std::optional<double> softcap,
                                                       bool want_entropy, bool inplace_backward) {
  const DeviceScope device("logits", logits);
  const LogitRows rows(logits, device);
  const LogitTransform transform = make_transform(logits, logit_scale, temperature, softcap);
  const LogprobOutputs outputs(logits, labels, want_entropy);

  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const Batch<T> batch = batch_of<T>(logits, rows, labels, mask, device);
    dispatch_bools(transform.capped, want_entropy, [&](auto capped, auto entropies) {
      launch("token_logprobs", token_logprobs_kernel<capped, entropies, T>, rows.positions.count, kLogitThreads,
             device.stream(), batch, transform, mutable_data<C>(outputs.logprobs), mutable_data<C>(outputs.entropy),
             mutable_data<double>(outputs.lse));
    });
  });
  return {outputs.logprobs, outputs.entropy, outputs.lse};
}

namespace {

// Writes d loss / d logits of all rows to `grad`, which has its own strides and may share the logits' storage.
void write_gradient(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy, const Tensor& logits,
                    const Tensor& labels, const OptionalTensor& mask, const Tensor& entropy, const Tensor& lse,
                    const LogitTransform& transform, const Tensor& grad, const DeviceScope& device) {
  const LogitRows rows(logits, device);
  const LogitRows grad_rows(grad, device);
  const int64_t count = rows.positions.count;
  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const Batch<T> batch = batch_of<T>(logits, rows, labels, mask, device);
    const auto gradients = row_gradients<C>(grad_logprobs, grad_entropy, entropy, lse, count, device);
    dispatch_bools(transform.capped, grad_entropy.has_value(), [&](auto capped, auto entropies) {
      launch("token_logprobs_backward", gradient_kernel<capped, entropies, T>, count, kLogitThreads, device.stream(),
             batch, transform, gradients, mutable_data<T>(grad), grad_rows.offset);
    });
  });
}

}  // namespace

Tensor token_logprobs_backward_cuda(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                    const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                                    const Tensor& entropy, const Tensor& lse, double logit_scale, double temperature,
                                    std::optional<double> softcap) {
  const DeviceScope device("logits", logits);
  const LogitTransform transform = make_transform(logits, logit_scale, temperature, softcap);
  Tensor grad = torch::stable::new_empty(logits, logits.sizes());
  write_gradient(grad_logprobs, grad_entropy, logits, labels, mask, entropy, lse, transform, grad, device);
  return grad;
}

void token_logprobs_backward_in_place_cuda(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                           const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                                           const Tensor& entropy, const Tensor& lse, double logit_scale,
                                           double temperature, std::optional<double> softcap) {
  const DeviceScope device("logits", logits);
  const LogitTransform transform = make_transform(logits, logit_scale, temperature, softcap);
  write_gradient(grad_logprobs, grad_entropy, logits, labels, mask, entropy, lse, transform, logits, device);
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("token_logprobs", TORCH_BOX(&segkernel::token_logprobs_cuda));
  library.impl("token_logprobs_backward", TORCH_BOX(&segkernel::token_logprobs_backward_cuda));
  library.impl("token_logprobs_backward_", TORCH_BOX(&segkernel::token_logprobs_backward_in_place_cuda));
}
