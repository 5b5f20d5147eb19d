// Generalized advantage estimation: one thread block per row, from the last tile to the first. A run of tokens maps the
// advantage of the token after it to that of its first token by an affine function. These compose associatively, so the
// recursion is a scan.
#include <tuple>

#include "../../cuda/row_tiles.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "gae.h"

namespace segkernel {

namespace {

// The affine function advantage -> decay * advantage + gain.
template <class C>
struct Affine {
  C decay;
  C gain;

  __device__ C operator()(C advantage) const { return decay * advantage + gain; }
};

// `nearer` to the row's end is applied first.
template <class C>
__device__ Affine<C> compose(const Affine<C>& nearer, const Affine<C>& farther) {
  return {farther.decay * nearer.decay, farther(nearer.gain)};
}

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads) gae_kernel(const T* rewards, const T* values, const bool* mask, Rows rows,
                                                       PerRow<C> gammas, PerRow<C> lams, C* advantages, C* returns) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  const C gamma = gammas[b];
  const C lam = lams[b];
  LastValid<C> carried_value{0, true};
  C carried_advantage = 0;
  // Tiles start at multiples of kTile: the rounding does not depend on the padding after the last token.
  for (int64_t tile = (row.length - 1) / kTile * kTile; tile >= 0 && row.length > 0; tile -= kTile) {
    const int64_t first = tile + (kThreads - 1 - threadIdx.x) * kItems;
    const Items<T> reward = load_items(rewards + row.begin, first, row.length);
    const Items<T> value = load_items(values + row.begin, first, row.length);
    const Items<bool> valid = load_valid(mask, row.begin, first, row.length);

    LastValid<C> first_value{};
#pragma unroll
    for (int i = kItems - 1; i >= 0; --i) {
      if (valid.of[i]) first_value = {widen(value.of[i]), true};
    }
    const auto next_values = block_scan<kThreads>(first_value, LastValid<C>{}, combine_last_valid<C>);
    const C value_after = combine_last_valid(carried_value, next_values.prefix).value;

    const auto advantages_from = [&](C next_advantage, auto&& each) {
      C next_value = value_after;
#pragma unroll
      for (int i = kItems - 1; i >= 0; --i) {
        if (!valid.of[i]) continue;
        next_advantage = gae_step<C>(widen(reward.of[i]), widen(value.of[i]), next_value, next_advantage, gamma, lam);
        next_value = widen(value.of[i]);
        each(i, next_advantage);
      }
      return next_advantage;
    };
    Affine<C> tokens{1, 0};
    tokens.gain = advantages_from(0, [&](int, C) { tokens.decay *= gamma * lam; });
    const auto after = block_scan<kThreads>(tokens, Affine<C>{1, 0}, compose<C>);

    Items<C> advantage{};
    Items<C> sum{};
    advantages_from(after.prefix(carried_advantage), [&](int i, C advantage_here) {
      advantage.of[i] = advantage_here;
      sum.of[i] = advantage_here + widen(value.of[i]);
    });
    store_items(advantages + row.begin, first, row.length, advantage);
    store_items(returns + row.begin, first, row.length, sum);
    carried_value = combine_last_valid(carried_value, next_values.total);
    carried_advantage = after.total(carried_advantage);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> gae_cuda(const Tensor& rewards, const Tensor& values, const OptionalTensor& mask,
                                    double gamma, const OptionalTensor& row_gamma, double lam,
                                    const OptionalTensor& row_lam, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("rewards", rewards);
  const RowsOf rows("rewards", rewards, cu_seqlens, device);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  Tensor advantages;
  Tensor returns;

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* reward_in = data<T>("rewards", rewards, tokens, device);
    const T* value_in = data<T>("values", values, tokens, device);
    const auto gammas = per_row<C>("gamma", gamma, row_gamma, rows->count, device);
    const auto lams = per_row<C>("lam", lam, row_lam, rows->count, device);
    advantages = rows.empty_tokens<C>();
    returns = rows.empty_tokens<C>();
    launch("gae", gae_kernel<T>, rows->count, kThreads, device.stream(), reward_in, value_in, valid, *rows, gammas,
           lams, mutable_data<C>(advantages), mutable_data<C>(returns));
  });
  return {advantages, returns};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) { library.impl("gae", TORCH_BOX(&segkernel::gae_cuda)); }
