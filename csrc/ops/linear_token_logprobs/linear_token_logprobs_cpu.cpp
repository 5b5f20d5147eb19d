// The steps of linear_token_logprobs between its matrix products.
#include <cstring>

#include "../../torch/dispatch.h"
#include "../../torch/outputs.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../token_logprobs/token_logprobs_dispatch.h"
#include "../token_logprobs/token_logprobs_row_gradients.h"
#include "../token_logprobs/token_logprobs_transform.h"
#include "linear_token_logprobs.h"

namespace segkernel {

namespace {

struct Tile {
  LogitRows rows;
  int64_t first;
  RowLabels labels;

  Tile(const Tensor& tile, const Tensor& labels, int64_t first)
      : rows(tile), first(first), labels(RowLabels::of(labels, rows.positions)) {}

  int64_t count() const { return rows.positions.count; }
  bool ignored(int64_t row) const { return all_ignored(labels[row], labels.per_row); }
  // Index of label k in the tile, or -1.
  int64_t label_index(int64_t row, int64_t k) const { return index_in_tile(labels[row][k], first, rows.vocabulary); }
};

}  // namespace

// bool [N]: the flattened tokens that are valid. Throws when one of them has a label or a temperature out of range.
Tensor linear_token_logprobs_valid_cpu(const Tensor& labels, const OptionalTensor& mask,
                                       const OptionalTensor& token_temperature, int64_t dims, int64_t vocabulary) {
  const Positions positions = row_positions(labels, dims);
  const RowPartition partition(positions, vocabulary, RowLabels::of(labels, positions),
                               data<bool>("mask", mask, positions.count),
                               data<double>("temperature", token_temperature, positions.count));
  Tensor valid = empty<bool>({positions.count});
  for (const int64_t row : partition.valid) mutable_data<bool>(valid)[row] = true;
  for (const int64_t row : partition.masked) mutable_data<bool>(valid)[row] = false;
  return valid;
}

// Merges a tile's logits [n, width] into `sums` and `label_y`; the first tile (first = 0) starts them.
void linear_token_logprobs_fold_cpu(const Tensor& sums, const Tensor& label_y, const Tensor& tile, const Tensor& labels,
                                    int64_t first, const OptionalTensor& token_temperature, double logit_scale,
                                    double temperature, std::optional<double> softcap, int64_t outputs_code) {
  const Outputs outputs = outputs_of(outputs_code);
  const Tile part(tile, labels, first);
  const LogitTransforms transforms =
      make_transforms(tile, logit_scale, temperature, token_temperature, softcap, part.count());
  data<double>("sums", sums, kRowSums * part.count());
  data<double>("label_y", label_y, part.count() * part.labels.per_row);
  auto* row_sums = static_cast<RowSums<double>*>(sums.mutable_data_ptr());
  double* y_out = mutable_data<double>(label_y);
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(tile.const_data_ptr());
    const RowKernels<T>& kernels = row_kernels(T{});
    for_each_row(part.count(), part.count() * part.rows.vocabulary, [&](int64_t row) {
      const T* values = in + part.rows.offset(row);
      if (part.ignored(row)) return;
      double* y = y_out + row * part.labels.per_row;
      if (first == 0) {
        row_sums[row] = RowSums<double>::empty();
        for (int64_t k = 0; k < part.labels.per_row; ++k) y[k] = NAN;
      }
      const LogitTransform transform = transforms.of<compute_t<T>>(row);
      kernels.accumulate(values, part.rows.vocabulary, first, transform, outputs, row_sums[row]);
      for (int64_t k = 0; k < part.labels.per_row; ++k) {
        const int64_t label = part.label_index(row, k);
        if (label >= 0) y[k] = y_of(values + label, transform, kernels);
      }
    });
  });
}

// sums [n, 7], label_y and labels [n] or [n, K] -> LogprobOutputs in float64, all of them. `like` has the logits'
// dtype.
SixTensors linear_token_logprobs_finish_cpu(const Tensor& sums, const Tensor& label_y, const Tensor& labels,
                                            const Tensor& like, int64_t vocabulary,
                                            const OptionalTensor& token_temperature, double logit_scale,
                                            double temperature, std::optional<double> softcap) {
  const Positions rows = row_positions(labels, 1);
  const int64_t count = rows.count;
  const RowLabels row_labels = RowLabels::of(labels, rows);
  const LogitTransforms transforms = make_transforms(like, logit_scale, temperature, token_temperature, softcap, count);
  data<double>("sums", sums, kRowSums * count);
  const auto* row_sums = static_cast<const RowSums<double>*>(sums.const_data_ptr());
  const double* y = data<double>("label_y", label_y, count * row_labels.per_row);
  const LogprobOutputs results(ScalarType::Double, labels, rows, row_labels.per_row, Outputs::statistics);
  const OutputPointers<double> out = results.pointers<double>();
  dispatch_floats("like", like.scalar_type(), [&](auto type) {
    for (int64_t row = 0; row < count; ++row) {
      const double factor = transforms.of<compute_t<decltype(type)>>(row).factor;
      finish_row(out, row, row_labels[row], y + row * row_labels.per_row, row_sums[row], factor, vocabulary);
    }
  });
  return results.tensors();
}

// Replaces a tile of logits by the gradient with respect to them. Per-row arguments are float64 [n], `grad_logprobs`
// [n] or [n, K].
void linear_token_logprobs_gradient_cpu(const Tensor& tile, const Tensor& labels, int64_t first,
                                        const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                        const Tensor& entropy, const Tensor& lse,
                                        const OptionalTensor& token_temperature, double logit_scale, double temperature,
                                        std::optional<double> softcap) {
  const Tile part(tile, labels, first);
  const LogitTransforms transforms =
      make_transforms(tile, logit_scale, temperature, token_temperature, softcap, part.count());
  const auto gradients =
      row_gradients<double>(grad_logprobs, grad_entropy, entropy, lse, part.count(), part.labels.per_row);
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    T* out = mutable_data<T>(tile);
    const RowKernels<T>& kernels = row_kernels(T{});
    for_each_row(part.count(), part.count() * part.rows.vocabulary, [&](int64_t row) {
      T* values = out + part.rows.offset(row);
      if (part.ignored(row)) {
        std::memset(values, 0, part.rows.vocabulary * sizeof(T));
        return;
      }
      const LogitTransform transform = transforms.of<compute_t<T>>(row);
      write_row_gradient(values, values, part.rows.vocabulary, first, row, part.labels[row], transform, gradients,
                         kernels);
    });
  });
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("_linear_token_logprobs_valid", TORCH_BOX(&segkernel::linear_token_logprobs_valid_cpu));
  library.impl("_linear_token_logprobs_fold_", TORCH_BOX(&segkernel::linear_token_logprobs_fold_cpu));
  library.impl("_linear_token_logprobs_finish", TORCH_BOX(&segkernel::linear_token_logprobs_finish_cpu));
  library.impl("_linear_token_logprobs_gradient_", TORCH_BOX(&segkernel::linear_token_logprobs_gradient_cpu));
}
