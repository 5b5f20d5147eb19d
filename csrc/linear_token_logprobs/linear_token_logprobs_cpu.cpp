// The steps of linear_token_logprobs around its matrix products. Logits exist one tile at a time: all rows, and the
// tokens [first, first + width) of the vocabulary.
#include <algorithm>
#include <tuple>

#include "../token_logprobs/dispatch.h"
#include "../token_logprobs/logit_rows.h"
#include "../token_logprobs/make_transform.h"

namespace segkernel {

namespace {

// What is known of a row after some tiles, as a row of `state` [n, 4], float64.
struct RowState {
  Running sums;
  double label_y;
};
static_assert(sizeof(RowState) == 4 * sizeof(double));

struct Tile {
  LogitRows rows;
  int64_t first;
  const int64_t* label;

  Tile(const Tensor& tile, const Tensor& labels, int64_t first)
      : rows(tile), first(first), label(data<int64_t>("labels", labels, rows.positions.count)) {}

  int64_t count() const { return rows.positions.count; }
  bool has_label(int64_t row) const { return label[row] >= first && label[row] < first + rows.vocabulary; }
};

}  // namespace

// The indices, in the flattened labels, of the tokens to be multiplied; every one of their labels is in range.
Tensor linear_token_logprobs_valid_cpu(const Tensor& labels, const OptionalTensor& mask, int64_t vocabulary) {
  const Positions positions(labels, labels.dim());
  const ValidRows which(positions, vocabulary, data<int64_t>("labels", labels, positions.count),
                        data<bool>("mask", mask, positions.count));
  Tensor indices = empty<int64_t>({static_cast<int64_t>(which.valid.size())});
  std::copy(which.valid.begin(), which.valid.end(), mutable_data<int64_t>(indices));
  return indices;
}

// Merges a tile's logits [n, width] into `state`; the first tile (first = 0) starts it.
void linear_token_logprobs_fold_cpu(const Tensor& state, const Tensor& tile, const Tensor& labels, int64_t first,
                                    double logit_scale, double temperature, std::optional<double> softcap,
                                    bool want_entropy) {
  const Tile part(tile, labels, first);
  const LogitTransform transform = make_transform(tile, logit_scale, temperature, softcap);
  data<double>("state", state, 4 * part.count());
  RowState* states = static_cast<RowState*>(state.mutable_data_ptr());
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(tile.const_data_ptr());
    const RowKernels<T>& kernels = row_kernels(T{});
    for_each_row(part.count(), part.count() * part.rows.vocabulary, [&](int64_t row) {
      const T* values = in + part.rows.offset(row);
      RowState& known = states[row];
      if (first == 0) known = {Running::empty(), 0.0};
      kernels.accumulate(values, part.rows.vocabulary, transform, want_entropy, known.sums);
      if (part.has_label(row)) known.label_y = y_of(values + (part.label[row] - first), transform, kernels);
    });
  });
}

// state [n, 4] -> logprobs, entropy and log sum exp [n], float64. `like` has the logits' dtype.
std::tuple<Tensor, Tensor, Tensor> linear_token_logprobs_finish_cpu(const Tensor& state, const Tensor& like,
                                                                    double logit_scale, double temperature,
                                                                    std::optional<double> softcap) {
  const int64_t count = state.numel() / 4;
  const LogitTransform transform = make_transform(like, logit_scale, temperature, softcap);
  data<double>("state", state, 4 * count);
  const RowState* states = static_cast<const RowState*>(state.const_data_ptr());
  Tensor logprobs = empty<double>({count});
  Tensor entropy = empty<double>({count});
  Tensor lse = empty<double>({count});
  for (int64_t row = 0; row < count; ++row) {
    const Running& sums = states[row].sums;
    mutable_data<double>(logprobs)[row] = logprob_of(states[row].label_y, sums, transform.factor);
    mutable_data<double>(entropy)[row] = entropy_of(sums);
    mutable_data<double>(lse)[row] = log_sum_exp(sums, transform.factor);
  }
  return {logprobs, entropy, lse};
}

// Turns a tile of logits into the gradient with respect to them. All of the rows' numbers are [n], float64.
void linear_token_logprobs_gradient_cpu(const Tensor& tile, const Tensor& labels, int64_t first,
                                        const OptionalTensor& grad_logprobs, const OptionalTensor& grad_entropy,
                                        const Tensor& entropy, const Tensor& lse, double logit_scale,
                                        double temperature, std::optional<double> softcap) {
  const Tile part(tile, labels, first);
  const LogitTransform transform = make_transform(tile, logit_scale, temperature, softcap);
  const auto gradients = row_gradients<double>(grad_logprobs, grad_entropy, entropy, lse, part.count());
  dispatch_floats("tile", tile.scalar_type(), [&](auto type) {
    using T = decltype(type);
    T* out = mutable_data<T>(tile);
    const RowKernels<T>& kernels = row_kernels(T{});
    for_each_row(part.count(), part.count() * part.rows.vocabulary, [&](int64_t row) {
      T* values = out + part.rows.offset(row);
      const RowGradient rule = gradients.of(row);
      T* label = part.has_label(row) ? values + (part.label[row] - first) : nullptr;
      const double at_label = label == nullptr ? 0 : rule.at_label(y_of(label, transform, kernels), transform);
      kernels.gradient(values, values, part.rows.vocabulary, transform, GradientTerms::make(rule, transform));
      if (label != nullptr) *label = narrow<T>(static_cast<compute_t<T>>(at_label));
    });
  });
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("linear_token_logprobs_valid", TORCH_BOX(&segkernel::linear_token_logprobs_valid_cpu));
  library.impl("linear_token_logprobs_fold_", TORCH_BOX(&segkernel::linear_token_logprobs_fold_cpu));
  library.impl("linear_token_logprobs_finish", TORCH_BOX(&segkernel::linear_token_logprobs_finish_cpu));
  library.impl("linear_token_logprobs_gradient_", TORCH_BOX(&segkernel::linear_token_logprobs_gradient_cpu));
}
