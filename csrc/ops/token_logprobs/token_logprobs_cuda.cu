// Log-probabilities, entropies and gradients. A row is read once; masked rows are not read. Many rows take one block
// each. Few rows take larger blocks that share the scored ones, and their gradients take several blocks per row; the
// bits are the same.
#include <algorithm>

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
  RowLabels labels;
  const bool* mask;

  __device__ const T* row(int64_t row) const { return logits + offset(row); }
  __device__ RowKind kind(int64_t row) const {
    if (labels.per_row != 1) return kind_of(is_valid(mask, row), labels[row], labels.per_row, vocabulary);
    // The usual case loads the label and the mask at the same time.
    const RowKind of_label = kind_of(true, labels[row][0], vocabulary);
    return is_valid(mask, row) ? of_label : RowKind::masked;
  }
  // Label k of a row; ignored if there is no such label.
  __device__ int64_t label(int64_t row, int64_t k) const { return k < labels.per_row ? labels[row][k] : kIgnoredLabel; }
  // Logit of a label of a scored row; 0 if the label is ignored. Loaded early and converted late, so that no thread
  // waits for it before it reads its row.
  __device__ T logit(int64_t row, int64_t label) const { return label == kIgnoredLabel ? T{} : this->row(row)[label]; }
};

// Value of all results of a row that is not scored: 0, or NaN for a label out of range.
__device__ inline double unscored_value(RowKind kind) { return kind == RowKind::masked ? 0 : NAN; }

template <bool kCapped, Outputs kOutputs, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kLogitThreads, kBlocksOf<kOutputs>)
    token_logprobs_kernel(Batch<T> batch, LogitTransforms transforms, OutputPointers<C> outputs) {
  const RowKind kind = batch.kind(blockIdx.x);
  if (kind != RowKind::scored) {
    if (threadIdx.x == 0) outputs.template fill<kOutputs>(blockIdx.x, unscored_value(kind));
    return;
  }
  const T* row = batch.row(blockIdx.x);
  const T label_x = batch.logit(blockIdx.x, batch.label(blockIdx.x, threadIdx.x));
  const auto sums = row_sums<kCapped, kOutputs>(row, batch.vocabulary, transforms.of<C>(blockIdx.x));
  const LogitTransform transform = transforms.of<C>(blockIdx.x);  // again, which costs no registers in the loop
  if (threadIdx.x == 0) outputs.template write_row<kOutputs>(blockIdx.x, sums, transform.factor, batch.vocabulary);
  if (threadIdx.x >= batch.labels.per_row) return;  // at most RowLabels::kMost = kLogitThreads
  const int64_t label = batch.labels[blockIdx.x][threadIdx.x];
  const C label_y = y_of<kCapped>(widen(label_x), static_cast<C>(transform.inner));
  outputs.template write_label<kOutputs>(blockIdx.x, threadIdx.x, label, label_y, sums, transform.factor);
}

// Kernel for few rows. A block has the threads of as many groups as occupy a multiprocessor. It finds the scored rows
// of the whole batch and takes every gridDim.x-th of them; its warps synchronize only after all of its rows are read.
// Then two warps per row merge its sums: one writes the results of the row, the other those of its labels.
static_assert(RowLabels::kMost == kLogitThreads);
template <Outputs kOutputs>
constexpr int kFewRowsThreads = kBlocksOf<kOutputs> * kLogitThreads;
template <Outputs kOutputs>
constexpr int kFewRows = kFewRowsThreads<kOutputs>;  // one thread per row of the batch
constexpr int kRowsOfBlock = 8;                      // at most
static_assert(kRowsOfBlock * 2 * kWarp <= kFewRowsThreads<Outputs::statistics>);

template <bool kCapped, Outputs kOutputs, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kFewRowsThreads<kOutputs>, 1)
    few_rows_kernel(Batch<T> batch, int count, LogitTransforms transforms, OutputPointers<C> outputs) {
  __shared__ int scored[kFewRows<kOutputs>];
  __shared__ RowSums<C> sums[kRowsOfBlock][kWarpsOfRow];
  const int thread = static_cast<int>(threadIdx.x);
  const RowKind kind = thread < count ? batch.kind(thread) : RowKind::masked;
  const bool is_scored = kind == RowKind::scored;
  const auto earlier = block_count<kFewRowsThreads<kOutputs>>(is_scored);
  if (is_scored) scored[earlier.prefix] = thread;
  __syncthreads();
  // The last block has the fewest scored rows.
  if (!is_scored && thread < count && blockIdx.x + 1 == gridDim.x) {
    outputs.template fill<kOutputs>(thread, unscored_value(kind));
  }

  const int first = static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x);
  const int mine = first + warp_index() % kRowsOfBlock * step;
  const bool writes_labels = warp_index() >= kRowsOfBlock;
  int64_t row = -1;  // row with outputs that this warp writes
  T label_x{};       // logit of this lane's label
  if (warp_index() < 2 * kRowsOfBlock && mine < earlier.total) {
    row = scored[mine];
    if (writes_labels) label_x = batch.logit(row, batch.label(row, lane_index()));
  }
  const int first_group = thread / kLogitThreads;
#pragma unroll 1
  for (int i = first, k = 0; i < earlier.total; i += step, ++k) {
#pragma unroll 1
    for (int group = 0; group < kGroups; group += kBlocksOf<kOutputs>) {
      // The groups rotate, since the first groups of a row may have one chunk more than the last.
      sum_group<kCapped, kOutputs>(batch.row(scored[i]), batch.vocabulary, (first_group + group + k) % kGroups,
                                   transforms.of<C>(scored[i]), sums[k]);
    }
  }
  const int64_t first_label = row < 0 ? kIgnoredLabel : batch.label(row, lane_index());
  __syncthreads();
  if (row < 0) return;
  const LogitTransform transform = transforms.of<C>(row);
  const auto all = merge_warps<kOutputs>(sums[warp_index() % kRowsOfBlock], transform);
  if (!writes_labels) {
    if (lane_index() == 0) outputs.template write_row<kOutputs>(row, all, transform.factor, batch.vocabulary);
    return;
  }
#pragma unroll 1
  for (int64_t k = lane_index(); k < batch.labels.per_row; k += kWarp) {
    const int64_t label = k < kWarp ? first_label : batch.label(row, k);
    if (k >= kWarp) label_x = batch.logit(row, label);
    const C label_y = y_of<kCapped>(widen(label_x), static_cast<C>(transform.inner));
    outputs.template write_label<kOutputs>(row, k, label, label_y, all, transform.factor);
  }
}

template <bool kCapped, bool kEntropy, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kLogitThreads, kBlocksPerMultiprocessor)
    gradient_kernel(Batch<T> batch, RowDivision division, LogitTransforms transforms, RowGradients<C> gradients,
                    T* grad, RowOffsets grad_offset) {
  const auto blocks = static_cast<unsigned>(division.blocks);
  const int64_t row = blockIdx.x / blocks;
  T* row_grad = grad + grad_offset(row);
  const Slice slice = division.slice(row_grad, batch.vocabulary, static_cast<int>(blockIdx.x % blocks));
  const RowKind kind = batch.kind(row);
  if (kind != RowKind::scored) {
    const C value = kind == RowKind::masked ? C{0} : C{NAN};
    return fill_row(row_grad, batch.vocabulary, slice, narrow<T>(value));
  }
  write_row_gradient<kCapped, kEntropy>(batch.row(row), row_grad, batch.vocabulary, 0, slice, row, batch.labels[row],
                                        transforms.of<C>(row), gradients);
}

template <class T>
Batch<T> batch_of(const Tensor& logits, const LogitRows& rows, const Tensor& labels, const OptionalTensor& mask,
                  const Device& device) {
  const int64_t count = rows.positions.count;
  check_row_length(rows.vocabulary);
  return {static_cast<const T*>(logits.const_data_ptr()), rows.offset, static_cast<int>(rows.vocabulary),
          RowLabels::of(labels, rows.positions, device), data<bool>("mask", mask, count, device)};
}

// One block per multiprocessor, or as many as it takes.
int64_t few_rows_blocks(int64_t rows, const DeviceScope& device) {
  const int64_t needed = (rows + kRowsOfBlock - 1) / kRowsOfBlock;
  return std::max(needed, std::min<int64_t>(rows, device.multiprocessors()));
}

}  // namespace

// As token_logprobs_cpu, except that a label out of range gives NaN.
SixTensors token_logprobs_cuda(const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                               const OptionalTensor& token_temperature, double logit_scale, double temperature,
                               std::optional<double> softcap, int64_t outputs_code, bool inplace_backward) {
  const Outputs outputs = outputs_of(outputs_code);
  const DeviceScope device("logits", logits);
  const LogitRows rows(logits, device);
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, rows.positions.count, device);
  const int64_t labels_per_row = RowLabels::of(labels, rows.positions, device).per_row;
  const LogprobOutputs results(compute_dtype(logits), labels, rows.positions, labels_per_row, outputs);

  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const Batch<T> batch = batch_of<T>(logits, rows, labels, mask, device);
    const OutputPointers<C> out = results.pointers<C>();
    const int64_t count = rows.positions.count;
    dispatch_bool(transforms.shared.capped, [&](auto capped) {
      dispatch_outputs(outputs, [&](auto wanted) {
        // A row of one chunk has work for one group only.
        if (count <= kFewRows<wanted> && rows.vocabulary > kChunk<T>) {
          launch("token_logprobs", few_rows_kernel<capped, wanted, T>, few_rows_blocks(count, device),
                 kFewRowsThreads<wanted>, device.stream(), batch, static_cast<int>(count), transforms, out);
        } else {
          launch("token_logprobs", token_logprobs_kernel<capped, wanted, T>, count, kLogitThreads, device.stream(),
                 batch, transforms, out);
        }
      });
    });
  });
  return results.tensors();
}

namespace {

// Writes d loss / d logits of all rows to `grad`, which has its own strides and may share the logits' storage.
void write_gradient(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy, const Tensor& logits,
                    const Tensor& labels, const OptionalTensor& mask, const Tensor& entropy, const Tensor& lse,
                    const OptionalTensor& token_temperature, double logit_scale, double temperature,
                    std::optional<double> softcap, const Tensor& grad, const DeviceScope& device) {
  const LogitRows rows(logits, device);
  const LogitRows grad_rows(grad, device);
  const int64_t count = rows.positions.count;
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, count, device);
  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const Batch<T> batch = batch_of<T>(logits, rows, labels, mask, device);
    const auto gradients =
        row_gradients<C>(grad_logprobs, grad_entropy, entropy, lse, count, batch.labels.per_row, device);
    const auto division = RowDivision::of<T>(count, rows.vocabulary);
    dispatch_bool(transforms.shared.capped, [&](auto capped) {
      dispatch_bool(grad_entropy.has_value(), [&](auto entropy) {
        launch("token_logprobs_backward", gradient_kernel<capped, entropy, T>, count * division.blocks, kLogitThreads,
               device.stream(), batch, division, transforms, gradients, mutable_data<T>(grad), grad_rows.offset);
      });
    });
  });
}

}  // namespace

Tensor token_logprobs_backward_cuda(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                    const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                                    const OptionalTensor& token_temperature, const Tensor& entropy, const Tensor& lse,
                                    double logit_scale, double temperature, std::optional<double> softcap) {
  const DeviceScope device("logits", logits);
  Tensor grad = torch::stable::new_empty(logits, logits.sizes());
  write_gradient(grad_logprobs, grad_entropy, logits, labels, mask, entropy, lse, token_temperature, logit_scale,
                 temperature, softcap, grad, device);
  return grad;
}

void token_logprobs_backward_in_place_cuda(const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                           const Tensor& logits, const Tensor& labels, const OptionalTensor& mask,
                                           const OptionalTensor& token_temperature, const Tensor& entropy,
                                           const Tensor& lse, double logit_scale, double temperature,
                                           std::optional<double> softcap) {
  const DeviceScope device("logits", logits);
  write_gradient(grad_logprobs, grad_entropy, logits, labels, mask, entropy, lse, token_temperature, logit_scale,
                 temperature, softcap, logits, device);
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("token_logprobs", TORCH_BOX(&segkernel::token_logprobs_cuda));
  library.impl("token_logprobs_backward", TORCH_BOX(&segkernel::token_logprobs_backward_cuda));
  library.impl("token_logprobs_backward_", TORCH_BOX(&segkernel::token_logprobs_backward_in_place_cuda));
}
