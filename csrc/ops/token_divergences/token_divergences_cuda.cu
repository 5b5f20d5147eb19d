// Divergences, entropies, label log-probabilities and gradients. A pair of rows takes one block; few pairs take blocks
// of all groups, which occupy a multiprocessor each, and their gradients several blocks each, with the same bits. Both
// rows are read together, once, and again for js and tv; masked rows are not read.
#include <tuple>

#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "token_divergences_device.cuh"
#include "token_divergences_tensors.h"

namespace segkernel {

namespace {

// The rows of a batch. `labels` may be null.
template <class T>
struct PairBatch {
  const T* logits;
  const T* others;
  RowOffsets offset;
  RowOffsets other_offset;
  int vocabulary;
  const int64_t* labels;
  const bool* mask;

  __device__ const T* row(int64_t row) const { return logits + offset(row); }
  __device__ const T* other(int64_t row) const { return others + other_offset(row); }
  __device__ RowKind kind(int64_t row) const {
    if (labels == nullptr) return is_valid(mask, row) ? RowKind::scored : RowKind::masked;
    return kind_of(is_valid(mask, row), labels[row], vocabulary);
  }
};

template <class T>
PairBatch<T> pair_batch(const LogitRowPairs& pairs, const Tensor& logits, const Tensor& other_logits,
                        const OptionalTensor& labels, const OptionalTensor& mask, const Device& device) {
  check_row_length(pairs.rows.vocabulary);
  return {static_cast<const T*>(logits.const_data_ptr()),
          static_cast<const T*>(other_logits.const_data_ptr()),
          pairs.rows.offset,
          pairs.others.offset,
          static_cast<int>(pairs.rows.vocabulary),
          data<int64_t>("labels", labels, pairs.count(), device),
          data<bool>("mask", mask, pairs.count(), device)};
}

// Few pairs of rows, before masking: at most twice the number of one-group blocks that fit on the GPU at once.
// Blocks of all groups read each pair with a whole multiprocessor.
constexpr int kFewPairsThreads = kPairGroups * kLogitThreads;
constexpr int kFewPairsPerMultiprocessor = 2 * kPairGroups;

template <int kThreads, bool kCapped, Divergence kKind, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads, kFewPairsThreads / kThreads)
    token_divergences_kernel(PairBatch<T> batch, double beta, LogitTransforms transforms, DivergencePointers<C> out) {
  constexpr bool kReversed = kKind == Divergence::reverse_kl;
  const int64_t at = blockIdx.x;
  const RowKind row_kind = batch.kind(at);
  if (row_kind != RowKind::scored) {
    if (threadIdx.x == 0) out.fill(at, row_kind == RowKind::masked ? 0 : NAN);
    return;
  }
  const LogitTransform transform = transforms.of<C>(at);
  const T* row = batch.row(at);
  const T* other = batch.other(at);
  const auto sums = row_pair_sums<kThreads, kCapped, !takes_second_pass(kKind)>(
      kReversed ? other : row, kReversed ? row : other, batch.vocabulary, transform);
  __shared__ PairState state;
  __shared__ Normalizer normalizer, other_normalizer;
  if (threadIdx.x == 0) {
    const Running& of_row = kReversed ? sums.second : sums.first;
    const Running& of_other = kReversed ? sums.first : sums.second;
    state = {log_sum_exp(of_row, transform.factor), log_sum_exp(of_other, transform.factor), entropy_of(of_row),
             takes_second_pass(kKind) ? 0 : kl_of(sums)};
    out.write(at, not_negative(state.center), state, entropy_of(of_other));
    if (batch.labels != nullptr) {
      const C inner = static_cast<C>(transform.inner);
      const int64_t label = batch.labels[at];
      const auto logprob = [&](const T* of, double lse) {
        return kLn2 * transform.factor * y_of<kCapped>(widen(of[label]), inner) - lse;
      };
      out.write_logprobs(at, logprob(row, state.lse), logprob(other, state.other_lse));
    }
    normalizer = Normalizer::make(state.lse, transform.factor);
    other_normalizer = Normalizer::make(state.other_lse, transform.factor);
  }
  if constexpr (takes_second_pass(kKind)) {
    __syncthreads();
    const ShapeSums shape = row_shape_sums<kThreads, kCapped, kKind>(row, other, batch.vocabulary, transform, beta,
                                                                     normalizer, other_normalizer);
    if (threadIdx.x != 0) return;
    const RowDivergence result = finish_shape(kKind, beta, shape, normalizer);
    out.divergence[at] = static_cast<C>(result.divergence);
    out.state[at].center = result.center;
  }
}

template <bool kCapped, Divergence kKind, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kLogitThreads, kPairGroups)
    pair_gradient_kernel(PairBatch<T> batch, RowDivision division, double beta, LogitTransforms transforms,
                         PairUpstreams<C> upstreams, const PairState* states, T* grad, RowOffsets grad_offset) {
  const auto blocks = static_cast<unsigned>(division.blocks);
  const int64_t row = blockIdx.x / blocks;
  T* row_grad = grad + grad_offset(row);
  const Slice slice = division.slice(row_grad, batch.vocabulary, static_cast<int>(blockIdx.x % blocks));
  const RowKind row_kind = batch.kind(row);
  if (row_kind != RowKind::scored) {
    const C value = row_kind == RowKind::masked ? C{0} : C{NAN};
    return fill_row(row_grad, batch.vocabulary, slice, narrow<T>(value));
  }
  const PairUpstream upstream = upstreams[row];
  const int label = upstream.logprob == 0 ? -1 : static_cast<int>(batch.labels[row]);
  write_pair_gradient<kCapped, kKind>(batch.row(row), batch.other(row), row_grad, batch.vocabulary, slice, label, beta,
                                      transforms.of<C>(row), upstream, states[row]);
}

// Calls body<kCapped, kKind>(), with the softcap's presence and the kind as compile-time constants.
template <class Body>
void dispatch_kernel(Divergence kind, bool capped, const Body& body) {
  dispatch_divergence(kind, [&]<Divergence kKind>() {
    capped ? body.template operator()<true, kKind>() : body.template operator()<false, kKind>();
  });
}

}  // namespace

// As token_divergences_cpu, except that a label out of range gives NaN.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> token_divergences_cuda(
    const Tensor& logits, const Tensor& other_logits, const OptionalTensor& labels, const OptionalTensor& mask,
    const OptionalTensor& token_temperature, int64_t kind_code, double beta, double logit_scale, double temperature,
    std::optional<double> softcap, bool inplace_backward) {
  const DeviceScope device("logits", logits);
  const Divergence kind = divergence_kind(kind_code, beta);
  const LogitRowPairs pairs(logits, other_logits, device);
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, pairs.count(), device);
  const DivergenceOutputs outputs(logits, pairs, labels.has_value());

  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const PairBatch<T> batch = pair_batch<T>(pairs, logits, other_logits, labels, mask, device);
    const DivergencePointers<compute_t<T>> out(outputs, labels.has_value());
    const int64_t count = pairs.count();
    dispatch_kernel(kind, transforms.shared.capped, [&]<bool kCapped, Divergence kKind>() {
      const auto launch_with = [&](auto threads) {
        launch("token_divergences", token_divergences_kernel<threads, kCapped, kKind, T>, count, threads,
               device.stream(), batch, beta, transforms, out);
      };
      // A row of one chunk has work for one group only.
      if (pairs.rows.vocabulary > kPairChunk<T> && count <= kFewPairsPerMultiprocessor * device.multiprocessors()) {
        launch_with(std::integral_constant<int, kFewPairsThreads>{});
      } else {
        launch_with(std::integral_constant<int, kLogitThreads>{});
      }
    });
  });
  return {outputs.divergence, outputs.entropy,        outputs.other_entropy,
          outputs.logprobs,   outputs.other_logprobs, outputs.state};
}

namespace {

// Writes d loss / d logits of all rows to `grad`, which has its own strides and may share the logits' storage.
void write_gradient(const OptionalTensor& grad_divergence, const OptionalTensor& grad_entropy,
                    const OptionalTensor& grad_logprobs, const Tensor& logits, const Tensor& other_logits,
                    const OptionalTensor& labels, const OptionalTensor& mask, const OptionalTensor& token_temperature,
                    const Tensor& state, int64_t kind_code, double beta, double logit_scale, double temperature,
                    std::optional<double> softcap, const Tensor& grad, const DeviceScope& device) {
  const Divergence kind = divergence_kind(kind_code, beta);
  const LogitRowPairs pairs(logits, other_logits, device);
  const LogitRows grad_rows(grad, device);
  const int64_t count = pairs.count();
  const LogitTransforms transforms =
      make_transforms(logits, logit_scale, temperature, token_temperature, softcap, count, device);
  dispatch_floats("logits", logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const PairBatch<T> batch = pair_batch<T>(pairs, logits, other_logits, labels, mask, device);
    const DivergenceGradients<compute_t<T>> gradients(grad_divergence, grad_entropy, grad_logprobs, labels, state,
                                                      count, device);
    const auto division = RowDivision::of<T>(count, pairs.rows.vocabulary);
    dispatch_kernel(kind, transforms.shared.capped, [&]<bool kCapped, Divergence kKind>() {
      launch("token_divergences_backward", pair_gradient_kernel<kCapped, kKind, T>, count * division.blocks,
             kLogitThreads, device.stream(), batch, division, beta, transforms, gradients.upstream, gradients.state,
             mutable_data<T>(grad), grad_rows.offset);
    });
  });
}

}  // namespace

Tensor token_divergences_backward_cuda(const OptionalTensor& grad_divergence, const OptionalTensor& grad_entropy,
                                       const OptionalTensor& grad_logprobs, const Tensor& logits,
                                       const Tensor& other_logits, const OptionalTensor& labels,
                                       const OptionalTensor& mask, const OptionalTensor& token_temperature,
                                       const Tensor& state, int64_t kind, double beta, double logit_scale,
                                       double temperature, std::optional<double> softcap) {
  const DeviceScope device("logits", logits);
  Tensor grad = torch::stable::new_empty(logits, logits.sizes());
  write_gradient(grad_divergence, grad_entropy, grad_logprobs, logits, other_logits, labels, mask, token_temperature,
                 state, kind, beta, logit_scale, temperature, softcap, grad, device);
  return grad;
}

void token_divergences_backward_in_place_cuda(const OptionalTensor& grad_divergence, const OptionalTensor& grad_entropy,
                                              const OptionalTensor& grad_logprobs, const Tensor& logits,
                                              const Tensor& other_logits, const OptionalTensor& labels,
                                              const OptionalTensor& mask, const OptionalTensor& token_temperature,
                                              const Tensor& state, int64_t kind, double beta, double logit_scale,
                                              double temperature, std::optional<double> softcap) {
  const DeviceScope device("logits", logits);
  write_gradient(grad_divergence, grad_entropy, grad_logprobs, logits, other_logits, labels, mask, token_temperature,
                 state, kind, beta, logit_scale, temperature, softcap, logits, device);
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("token_divergences", TORCH_BOX(&segkernel::token_divergences_cuda));
  library.impl("token_divergences_backward", TORCH_BOX(&segkernel::token_divergences_backward_cuda));
  library.impl("token_divergences_backward_", TORCH_BOX(&segkernel::token_divergences_backward_in_place_cuda));
}
