// The steps of linear_token_logprobs between its matrix products.
#include <cstring>
#include <tuple>

#include "../../torch/dispatch.h"
#include "../../torch/outputs.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../token_logprobs/token_logprobs_arguments.h"
#include "../token_logprobs/token_logprobs_dispatch.h"
#include "../token_logprobs/token_logprobs_row_gradients.h"
#include "../token_logprobs/token_logprobs_transform.h"
#include "linear_token_logprobs.h"

namespace segkernel {

namespace {

struct Tile {
  LogitRows rows;
  int64_t first;
  const int64_t* label;

  Tile(const Tensor& tile, const Tensor& labels, int64_t first)
      : rows(tile), first(first), label(data<int64_t>("labels", labels, rows.positions.count)) {}

  int64_t count() const { return rows.positions.count; }
  int64_t label_index(int64_t row) const { return index_in_tile(label[row], first, rows.vocabulary); }
};

}  // namespace

// bool [N]: the flattened tokens that are valid. Throws when one of them has a label or a temperature out of range.
Tensor linear_token_logprobs_valid_cpu(const Tensor& labels, const OptionalTensor& mask,
                                       const OptionalTensor& token_temperature, int64_t vocabulary) {
  const Positions positions(labels, labels.dim());
  const RowPartition partition(positions, vocabulary, data<int64_t>("labels", labels, positions.count),
                               data<bool>("mask", mask, positions.count),
                               data<double>("temperature", token_temperature, positions.count));
  Tensor valid = empty<bool>({positions.count});
  for (const int64_t row : partition.valid) mutable_data<bool>(valid)[row] = true;
  for (const int64_t row : partition.masked) mutable_data<bool>(valid)[row] = false;
  return valid;
}

// Merges a tile's logits [n, width] into `state`; the first tile (first = 0) starts it.
void linear_token_logprobs_fold_cpu(const Tensor& state, const Tensor& tile, const Tensor& labels, int64_t first,
                                    const OptionalTensor& token_temperature, double logit_scale, double temperature,
                                    std::optional<double> softcap, bool want_entropy) {
  const Tile part(tile, labels, first);
  const LogitTransforms transforms =
      make_transforms(tile, logit_scale, temperature, token_temperature, softcap, part.count());
  data<double>("state", state, 4 * part.count());
  RowState* states = static_cast<RowState*>(state.mutable_data_ptr());
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(tile.const_data_ptr());
    const RowKernels<T>& kernels = row_kernels(T{});
    for_each_row(part.count(), part.count() * part.rows.vocabulary, [&](int64_t row) {
      const T* values = in + part.rows.offset(row);
      RowState& known = states[row];
      if (part.label[row] == kIgnoredLabel) {
        known = RowState::ignored();
        return;
      }
      if (first == 0) known = RowState::empty();
      const LogitTransform transform = transforms.of<compute_t<T>>(row);
      kernels.accumulate(values, part.rows.vocabulary, transform, want_entropy, known.sums);
      const int64_t label = part.label_index(row);
      if (label >= 0) known.label_y = y_of(values + label, transform, kernels);
    });
  });
}

// state [n, 4] -> logprobs, entropy and log sum exp [n], float64. `like` has the logits' dtype.
std::tuple<Tensor, Tensor, Tensor> linear_token_logprobs_finish_cpu(const Tensor& state, const Tensor& like,
                                                                    const OptionalTensor& token_temperature,
                                                                    double logit_scale, double temperature,
                                                                    std::optional<double> softcap) {
  const int64_t count = state.numel() / 4;
  const LogitTransforms transforms = make_transforms(like, logit_scale, temperature, token_temperature, softcap, count);
  data<double>("state", state, 4 * count);
  const RowState* states = static_cast<const RowState*>(state.const_data_ptr());
  Tensor logprobs = empty<double>({count});
  Tensor entropy = empty<double>({count});
  Tensor lse = empty<double>({count});
  dispatch_floats("like", like.scalar_type(), [&](auto type) {
    for (int64_t row = 0; row < count; ++row) {
      const RowResult result = states[row].result(transforms.of<compute_t<decltype(type)>>(row).factor);
      mutable_data<double>(logprobs)[row] = result.logprob;
      mutable_data<double>(entropy)[row] = result.entropy;
      mutable_data<double>(lse)[row] = result.lse;
    }
  });
  return {logprobs, entropy, lse};
}

// Replaces a tile of logits by the gradient with respect to them. Per-row arguments are float64 [n].
void linear_token_logprobs_gradient_cpu(const Tensor& tile, const Tensor& labels, int64_t first,
                                        const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                        const Tensor& entropy, const Tensor& lse,
                                        const OptionalTensor& token_temperature, double logit_scale, double temperature,
                                        std::optional<double> softcap) {
  const Tile part(tile, labels, first);
  const LogitTransforms transforms =
      make_transforms(tile, logit_scale, temperature, token_temperature, softcap, part.count());
  const auto gradients = row_gradients<double>(grad_logprobs, grad_entropy, entropy, lse, part.count());
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    T* out = mutable_data<T>(tile);
    const RowKernels<T>& kernels = row_kernels(T{});
    for_each_row(part.count(), part.count() * part.rows.vocabulary, [&](int64_t row) {
      T* values = out + part.rows.offset(row);
      if (part.label[row] == kIgnoredLabel) {
        std::memset(values, 0, part.rows.vocabulary * sizeof(T));
        return;
      }
      const LogitTransform transform = transforms.of<compute_t<T>>(row);
      const RowGradient gradient = gradients[row];
      const int64_t label = part.label_index(row);
      const double at_label = label < 0 ? 0 : gradient.at_label(y_of(values + label, transform, kernels), transform);
      kernels.gradient(values, values, part.rows.vocabulary, transform, gradient.off_label(transform));
      if (label >= 0) values[label] = narrow<T>(static_cast<compute_t<T>>(at_label));
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
