// Steps of linear_token_logprobs around its matrix products: one thread block per row of a tile.
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/outputs.h"
#include "../../torch/registration.h"
#include "../token_logprobs/token_logprobs_device.cuh"
#include "../token_logprobs/token_logprobs_row_gradients.h"
#include "../token_logprobs/token_logprobs_transform.h"
#include "linear_token_logprobs.h"

namespace segkernel {

namespace {

__global__ void __launch_bounds__(kLogitThreads)
    valid_kernel(RowLabels labels, const bool* mask, int64_t count, int64_t vocabulary, bool* valid) {
  const int64_t token = int64_t{blockIdx.x} * kLogitThreads + threadIdx.x;
  if (token < count) {
    valid[token] = kind_of(is_valid(mask, token), labels[token], labels.per_row, vocabulary) != RowKind::masked;
  }
}

template <class T>
struct Tile {
  T* logits;
  RowOffsets offset;
  int width;
  int64_t first;
  RowLabels labels;

  __device__ T* row(int64_t row) const { return logits + offset(row); }
  __device__ bool ignored(int64_t row) const { return all_ignored(labels[row], labels.per_row); }
};

template <bool kCapped, Outputs kOutputs, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kLogitThreads, kBlocksOf<kOutputs>)
    fold_kernel(Tile<T> tile, LogitTransforms transforms, RowSums<double>* sums, double* label_y) {
  const int64_t row = blockIdx.x;
  if (tile.ignored(row)) return;
  const T* logits = tile.row(row);
  const LogitTransform transform = transforms.of<C>(row);
  const auto of_tile = row_sums<kCapped, kOutputs>(logits, tile.width, transform);
  const int64_t k = threadIdx.x;  // of a label; RowLabels::kMost is kLogitThreads
  if (k < tile.labels.per_row) {
    double& y = label_y[row * tile.labels.per_row + k];
    const int64_t label = index_in_tile(tile.labels[row][k], tile.first, tile.width);
    if (label >= 0) {
      y = y_of<kCapped>(widen(logits[label]), static_cast<C>(transform.inner));
    } else if (tile.first == 0) {
      y = NAN;
    }
  }
  if (threadIdx.x != 0) return;
  RowSums<double> known = tile.first == 0 ? RowSums<double>::empty() : sums[row];
  known.running = merge(known.running, of_tile.running, transform.factor);
  if constexpr (has_statistics(kOutputs)) known.totals = followed_by(known.totals, of_tile.totals, tile.first);
  sums[row] = known;
}

template <class C>
__global__ void __launch_bounds__(kLogitThreads)
    finish_kernel(const RowSums<double>* sums, const double* label_y, RowLabels labels, int64_t count,
                  int64_t vocabulary, LogitTransforms transforms, OutputPointers<double> out) {
  const int64_t row = int64_t{blockIdx.x} * kLogitThreads + threadIdx.x;
  if (row >= count) return;
  finish_row(out, row, labels[row], label_y + row * labels.per_row, sums[row], transforms.of<C>(row).factor,
             vocabulary);
}

template <bool kCapped, bool kEntropy, class T>
__global__ void __launch_bounds__(kLogitThreads, kBlocksPerMultiprocessor)
    tile_gradient_kernel(Tile<T> tile, LogitTransforms transforms, RowGradients<double> gradients) {
  const int64_t row = blockIdx.x;
  T* logits = tile.row(row);
  const Slice slice = whole_row(logits, tile.width);
  if (tile.ignored(row)) return fill_row(logits, tile.width, slice, T{});
  write_row_gradient<kCapped, kEntropy>(logits, logits, tile.width, tile.first, slice, row, tile.labels[row],
                                        transforms.of<compute_t<T>>(row), gradients);
}

int64_t blocks_for(int64_t count) { return (count + kLogitThreads - 1) / kLogitThreads; }

template <class T>
Tile<T> tile_of(const Tensor& tile, const LogitRows& rows, const Tensor& labels, int64_t first, const Device& device) {
  return {mutable_data<T>(tile), rows.offset, static_cast<int>(rows.vocabulary), first,
          RowLabels::of(labels, rows.positions, device)};
}

}  // namespace

// As linear_token_logprobs_valid_cpu, except that labels and temperatures out of range are not detected.
Tensor linear_token_logprobs_valid_cuda(const Tensor& labels, const OptionalTensor& mask,
                                        const OptionalTensor& token_temperature, int64_t dims, int64_t vocabulary) {
  const DeviceScope device("labels", labels);
  const Positions rows = row_positions(labels, dims);
  const int64_t count = rows.count;
  data<double>("temperature", token_temperature, count, device);  // its values are not checked
  Tensor valid = empty<bool>({count}, device);
  launch("linear_token_logprobs", valid_kernel, blocks_for(count), kLogitThreads, device.stream(),
         RowLabels::of(labels, rows, device), data<bool>("mask", mask, count, device), count, vocabulary,
         mutable_data<bool>(valid));
  return valid;
}

// Merges a tile's logits [n, width] into `sums` and `label_y`; the first tile (first = 0) starts them.
void linear_token_logprobs_fold_cuda(const Tensor& sums, const Tensor& label_y, const Tensor& tile,
                                     const Tensor& labels, int64_t first, const OptionalTensor& token_temperature,
                                     double logit_scale, double temperature, std::optional<double> softcap,
                                     int64_t outputs_code) {
  const Outputs outputs = outputs_of(outputs_code);
  const DeviceScope device("tile", tile);
  const LogitRows rows(tile, device);
  check_row_length(rows.vocabulary);
  const int64_t count = rows.positions.count;
  const LogitTransforms transforms =
      make_transforms(tile, logit_scale, temperature, token_temperature, softcap, count, device);
  data<double>("sums", sums, kRowSums * count, device);
  const int64_t labels_per_row = RowLabels::of(labels, rows.positions, device).per_row;
  data<double>("label_y", label_y, count * labels_per_row, device);
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Tile<T> part = tile_of<T>(tile, rows, labels, first, device);
    dispatch_bool(transforms.shared.capped, [&](auto capped) {
      dispatch_outputs(outputs, [&](auto wanted) {
        launch("linear_token_logprobs", fold_kernel<capped, wanted, T>, count, kLogitThreads, device.stream(), part,
               transforms, static_cast<RowSums<double>*>(sums.mutable_data_ptr()), mutable_data<double>(label_y));
      });
    });
  });
}

// sums [n, 7], label_y and labels [n] or [n, K] -> LogprobOutputs in float64, all of them. `like` has the logits'
// dtype.
SixTensors linear_token_logprobs_finish_cuda(const Tensor& sums, const Tensor& label_y, const Tensor& labels,
                                             const Tensor& like, int64_t vocabulary,
                                             const OptionalTensor& token_temperature, double logit_scale,
                                             double temperature, std::optional<double> softcap) {
  const DeviceScope device("sums", sums);
  const Positions rows = row_positions(labels, 1);
  const int64_t count = rows.count;
  const RowLabels row_labels = RowLabels::of(labels, rows, device);
  check_floats("like", like.scalar_type());
  const LogitTransforms transforms =
      make_transforms(like, logit_scale, temperature, token_temperature, softcap, count, device);
  data<double>("sums", sums, kRowSums * count, device);
  const LogprobOutputs results(ScalarType::Double, labels, rows, row_labels.per_row, Outputs::statistics);
  dispatch_floats("like", like.scalar_type(), [&](auto type) {
    launch("linear_token_logprobs", finish_kernel<compute_t<decltype(type)>>, blocks_for(count), kLogitThreads,
           device.stream(), static_cast<const RowSums<double>*>(sums.const_data_ptr()),
           data<double>("label_y", label_y, count * row_labels.per_row, device), row_labels, count, vocabulary,
           transforms, results.pointers<double>());
  });
  return results.tensors();
}

// Replaces a tile of logits by the gradient with respect to them. Per-row arguments are float64 [n], `grad_logprobs`
// [n] or [n, K].
void linear_token_logprobs_gradient_cuda(const Tensor& tile, const Tensor& labels, int64_t first,
                                         const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                         const Tensor& entropy, const Tensor& lse,
                                         const OptionalTensor& token_temperature, double logit_scale,
                                         double temperature, std::optional<double> softcap) {
  const DeviceScope device("tile", tile);
  const LogitRows rows(tile, device);
  check_row_length(rows.vocabulary);
  const int64_t count = rows.positions.count;
  const LogitTransforms transforms =
      make_transforms(tile, logit_scale, temperature, token_temperature, softcap, count, device);
  const int64_t labels_per_row = RowLabels::of(labels, rows.positions, device).per_row;
  const auto gradients =
      row_gradients<double>(grad_logprobs, grad_entropy, entropy, lse, count, labels_per_row, device);
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Tile<T> part = tile_of<T>(tile, rows, labels, first, device);
    dispatch_bool(transforms.shared.capped, [&](auto capped) {
      dispatch_bool(grad_entropy.has_value(), [&](auto entropy) {
        launch("linear_token_logprobs_backward", tile_gradient_kernel<capped, entropy, T>, count, kLogitThreads,
               device.stream(), part, transforms, gradients);
      });
    });
  });
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("_linear_token_logprobs_valid", TORCH_BOX(&segkernel::linear_token_logprobs_valid_cuda));
  library.impl("_linear_token_logprobs_fold_", TORCH_BOX(&segkernel::linear_token_logprobs_fold_cuda));
  library.impl("_linear_token_logprobs_finish", TORCH_BOX(&segkernel::linear_token_logprobs_finish_cuda));
  library.impl("_linear_token_logprobs_gradient_", TORCH_BOX(&segkernel::linear_token_logprobs_gradient_cuda));
}
