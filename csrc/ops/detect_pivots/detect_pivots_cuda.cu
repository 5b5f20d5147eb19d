// Pivots: one thread block per tile of a row. A tile gets the last valid reward of the earlier tiles of its row by
// decoupled look-back.
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "../../torch/tile_memory.cuh"
#include "detect_pivots.h"

namespace segkernel {

namespace {

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    detect_pivots_kernel(const T* rewards, const bool* mask, TileSchedule schedule,
                         TileAggregates<LastValid<C>> last_rewards, PerRow<C> thresholds, bool* pivots) {
  const Tile tile(schedule);
  if (!tile.exists()) return last_rewards.publish(tile.block, LastValid<C>{});
  const Row row = tile.row;
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  const C threshold = thresholds[tile.row_index];
  const Items<T> reward = load_items(rewards + row.begin, first, row.length);
  const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
  LastValid<C> last{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (valid.of[i]) last = {widen(reward.of[i]), true};
  }
  const auto scanned = block_scan<kThreads>(last, LastValid<C>{}, combine_last_valid<C>);
  last_rewards.publish(tile.block, scanned.total);
  const LastValid<C> earlier = look_back<kThreads>(last_rewards, tile, LastValid<C>{}, combine_last_valid<C>);
  LastValid<C> previous = combine_last_valid(earlier, scanned.prefix);
  Items<bool> pivot{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (!valid.of[i]) continue;
    pivot.of[i] = !previous.any | is_pivot<C>(widen(reward.of[i]), previous.value, threshold);
    previous = {widen(reward.of[i]), true};
  }
  store_items(pivots + row.begin, first, row.length, pivot);
}

}  // namespace

Tensor detect_pivots_cuda(const Tensor& rewards, const OptionalTensor& mask, double threshold,
                          const OptionalTensor& row_threshold, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("rewards", rewards);
  const RowsOf rows("rewards", rewards, cu_seqlens, device);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  const TileSchedule schedule{*rows};
  Tensor pivots = rows.empty_tokens<bool>();

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using Last = LastValid<compute_t<T>>;
    const T* in = data<T>("rewards", rewards, tokens, device);
    const auto thresholds = per_row<compute_t<T>>("threshold", threshold, row_threshold, rows->count, device);
    const TileMemory memory("detect_pivots", schedule, TileAggregates<Last>::kWords, device);
    launch("detect_pivots", detect_pivots_kernel<T>, schedule.count(), kThreads, device.stream(), in, valid, schedule,
           memory.aggregates<Last>(), thresholds, mutable_data<bool>(pivots));
  });
  return pivots;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("detect_pivots", TORCH_BOX(&segkernel::detect_pivots_cuda));
}
