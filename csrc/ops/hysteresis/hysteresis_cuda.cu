// The Schmitt trigger: one thread block per tile of a row. A tile gets the transition function of the earlier tiles of
// its row by decoupled look-back.
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "../../torch/tile_memory.cuh"
#include "hysteresis.h"

namespace segkernel {

namespace {

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    hysteresis_kernel(const T* rewards, const bool* mask, TileSchedule schedule, TileAggregates<int> transitions,
                      PerRow<C> lows, PerRow<C> highs, PerRow<int8_t> initials, bool hold, int8_t* states) {
  const auto then = [](int earlier, int later) { return then_transition(earlier, later); };
  const Tile tile(schedule);
  if (!tile.exists()) return transitions.publish(tile.block, int{kUnchanged});
  const Row row = tile.row;
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  const C low = lows[tile.row_index];
  const C high = highs[tile.row_index];
  const Items<T> reward = load_items(rewards + row.begin, first, row.length);
  const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
  int transition[kItems];  // of this thread's tokens up to and including each
  int transition_so_far = kUnchanged;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (valid.of[i]) transition_so_far = schmitt_step<C>(transition_so_far, widen(reward.of[i]), low, high, hold);
    transition[i] = transition_so_far;
  }
  const ExclusiveScan<int> scanned = block_scan<kThreads>(transition_so_far, int{kUnchanged}, then);
  transitions.publish(tile.block, scanned.total);
  const int earlier = look_back<kThreads>(transitions, tile, int{kUnchanged}, then);
  const int before = then(then(initials[tile.row_index], earlier), scanned.prefix);
  Items<int8_t> state;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    state.of[i] = valid.of[i] ? static_cast<int8_t>(then(before, transition[i])) : int8_t{0};
  }
  store_items(states + row.begin, first, row.length, state);
}

}  // namespace

Tensor hysteresis_cuda(const Tensor& rewards, const OptionalTensor& mask, double low, const OptionalTensor& row_low,
                       double high, const OptionalTensor& row_high, int64_t initial, const OptionalTensor& row_initial,
                       bool hold, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("rewards", rewards);
  const RowsOf rows("rewards", rewards, cu_seqlens, device);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  const auto initials = state_per_row("initial", initial, row_initial, rows->count, device);
  Tensor states = rows.empty_tokens<int8_t>();
  const TileSchedule schedule{*rows};
  const TileMemory memory("hysteresis", schedule, TileAggregates<int>::kWords, device);

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("rewards", rewards, tokens, device);
    const auto lows = per_row<C>("low", low, row_low, rows->count, device);
    const auto highs = per_row<C>("high", high, row_high, rows->count, device);
    launch("hysteresis", hysteresis_kernel<T>, schedule.count(), kThreads, device.stream(), in, valid, schedule,
           memory.aggregates<int>(), lows, highs, initials, hold, mutable_data<int8_t>(states));
  });
  return states;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("hysteresis", TORCH_BOX(&segkernel::hysteresis_cuda));
}
