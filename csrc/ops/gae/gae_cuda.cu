// Generalized advantage estimation: one thread block per tile of a row, from the last tile to the first. A run of
// tokens maps the advantage of the token after it to that of its first token by an affine function. These compose
// associatively, so the recursion is a scan; a tile gets the scan of the later tiles by decoupled look-back.
#include <tuple>

#include "../../cuda/affine.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "../../torch/tile_memory.cuh"
#include "gae.h"

namespace segkernel {

namespace {

// More tokens per thread than in other scans, since most instructions are those of the scans over threads.
constexpr int kGaeItems = 8;
constexpr int kGaeThreads = kTile / kGaeItems;

// Scan state: the recursion with each lambda.
template <class C>
struct Recursions {
  Affine<C> of_lam;
  Affine<C> of_value_lam;

  static __device__ Recursions identity() { return {{1, 0}, {1, 0}}; }

  __device__ Advantages<C> operator()(const Advantages<C>& next) const {
    return {of_lam(next.of_lam), of_value_lam(next.of_value_lam)};
  }
};

// `nearer` to the row's end is applied first.
template <class C>
__device__ Recursions<C> compose_both(const Recursions<C>& nearer, const Recursions<C>& farther) {
  return {compose(nearer.of_lam, farther.of_lam), compose(nearer.of_value_lam, farther.of_value_lam)};
}

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kGaeThreads)
    gae_kernel(const T* rewards, const T* values, const bool* mask, TileSchedule schedule,
               TileAggregates<LastValid<C>> all_values, TileAggregates<Recursions<C>> all_recursions, PerRow<C> gammas,
               PerRow<C> lams, PerRow<C> value_lams, bool holes_are_steps, C* advantages, C* returns) {
  const Tile tile(schedule);
  if (!tile.exists()) {
    all_values.publish(tile.block, LastValid<C>{});
    all_recursions.publish(tile.block, Recursions<C>::identity());
    return;
  }
  const Row row = tile.row;
  const C gamma = gammas[tile.row_index];
  const C lam = lams[tile.row_index];
  const C value_lam = value_lams[tile.row_index];
  const int64_t first = tile.begin_from_end() + (kGaeThreads - 1 - threadIdx.x) * kGaeItems;
  const auto reward_in = load_items<kGaeItems>(rewards + row.begin, first, row.length);
  const auto value_in = load_items<kGaeItems>(values + row.begin, first, row.length);
  const auto valid = load_valid<kGaeItems>(mask, row.begin, first, row.length);

  Items<C, kGaeItems> reward{};  // 0 at masked positions
  Items<C, kGaeItems> value{};
  bool is_step[kGaeItems];
  LastValid<C> first_value{};
#pragma unroll
  for (int i = kGaeItems - 1; i >= 0; --i) {
    is_step[i] = valid.of[i] || holes_are_steps;  // those after the last token leave 0 as it is
    if (valid.of[i]) {
      reward.of[i] = widen(reward_in.of[i]);
      value.of[i] = widen(value_in.of[i]);
    }
    if (is_step[i]) first_value = {value.of[i], true};
  }
  const auto next_values = block_scan<kGaeThreads>(first_value, LastValid<C>{}, combine_last_valid<C>);
  all_values.publish(tile.block, next_values.total);
  const LastValid<C> of_later =
      look_back_by_distance<kGaeThreads>(all_values, tile, LastValid<C>{}, combine_last_valid<C>);
  const C value_after = combine_last_valid(of_later, next_values.prefix).value;  // 0 after the last token

  const auto advantages_from = [&](Advantages<C> next, auto&& each) {
    C next_value = value_after;
#pragma unroll
    for (int i = kGaeItems - 1; i >= 0; --i) {
      if (!is_step[i]) continue;
      next.of_lam = gae_step(reward.of[i], value.of[i], next_value, next.of_lam, gamma, lam);
      next.of_value_lam = gae_step(reward.of[i], value.of[i], next_value, next.of_value_lam, gamma, value_lam);
      next_value = value.of[i];
      each(i, next);
    }
    return next;
  };
  auto tokens = Recursions<C>::identity();
  const Advantages<C> gains = advantages_from({}, [&](int, const Advantages<C>&) {
    tokens.of_lam.decay *= gamma * lam;
    tokens.of_value_lam.decay *= gamma * value_lam;
  });
  tokens.of_lam.gain = gains.of_lam;
  tokens.of_value_lam.gain = gains.of_value_lam;
  const auto after = block_scan<kGaeThreads>(tokens, Recursions<C>::identity(), compose_both<C>);
  all_recursions.publish(tile.block, after.total);
  const Recursions<C> later =
      look_back_by_distance<kGaeThreads>(all_recursions, tile, Recursions<C>::identity(), compose_both<C>);

  Items<C, kGaeItems> advantage{};
  Items<C, kGaeItems> sum{};
  advantages_from(after.prefix(later({})), [&](int i, const Advantages<C>& here) {
    if (!valid.of[i]) return;
    advantage.of[i] = here.of_lam;
    sum.of[i] = here.of_value_lam + value.of[i];
  });
  store_items(advantages + row.begin, first, row.length, advantage);
  store_items(returns + row.begin, first, row.length, sum);
}

}  // namespace

std::tuple<Tensor, Tensor> gae_cuda(const Tensor& rewards, const Tensor& values, const OptionalTensor& mask,
                                    double gamma, const OptionalTensor& row_gamma, double lam,
                                    const OptionalTensor& row_lam, double value_lam,
                                    const OptionalTensor& row_value_lam, bool holes_are_steps,
                                    const OptionalTensor& cu_seqlens) {
  const DeviceScope device("rewards", rewards);
  const RowsOf rows("rewards", rewards, cu_seqlens, device);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  const TileSchedule schedule{*rows};
  Tensor advantages;
  Tensor returns;

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* reward_in = data<T>("rewards", rewards, tokens, device);
    const T* value_in = data<T>("values", values, tokens, device);
    const auto gammas = per_row<C>("gamma", gamma, row_gamma, rows->count, device);
    const auto lams = per_row<C>("lam", lam, row_lam, rows->count, device);
    const auto value_lams = per_row<C>("value_lam", value_lam, row_value_lam, rows->count, device);
    advantages = rows.empty_tokens<C>();
    returns = rows.empty_tokens<C>();
    using Values = TileAggregates<LastValid<C>>;
    using All = TileAggregates<Recursions<C>>;
    const TileMemory memory("gae", schedule, Values::kWords + All::kWords, device);
    launch("gae", gae_kernel<T>, schedule.count(), kGaeThreads, device.stream(), reward_in, value_in, valid, schedule,
           memory.aggregates<LastValid<C>>(), memory.aggregates<Recursions<C>>(Values::kWords), gammas, lams,
           value_lams, holes_are_steps, mutable_data<C>(advantages), mutable_data<C>(returns));
  });
  return {advantages, returns};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) { library.impl("gae", TORCH_BOX(&segkernel::gae_cuda)); }
