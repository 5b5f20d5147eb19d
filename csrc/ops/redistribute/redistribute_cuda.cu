// Reward redistribution: one thread block per tile of a row. A tile gets the last valid score of the earlier tiles of
// its row by decoupled look-back.
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "../../torch/tile_memory.cuh"
#include "redistribute.h"

namespace segkernel {

namespace {

// Whether a later tile of the row has a valid token. Called by all threads. Tiles read the mask only up to the next
// valid token, so all tiles of a row together read it at most once more.
__device__ bool valid_after(const bool* mask, const Tile& tile) {
  for (int64_t begin = tile.begin() + kTile; begin < tile.row.length; begin += kTile) {
    const Items<bool> valid = load_valid(mask, tile.row.begin, begin + threadIdx.x * kItems, tile.row.length);
    int any = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) any |= valid.of[i];
    if (__syncthreads_or(any)) return true;
  }
  return false;
}

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    redistribute_kernel(const T* prefix_scores, const bool* mask, TileSchedule schedule,
                        TileAggregates<LastValid<C>> scores, PerRow<C> initials, PerRow<C> mixes,
                        const C* sequence_rewards, C* rewards) {
  const Tile tile(schedule);
  if (!tile.exists()) return scores.publish(tile.block, LastValid<C>{});
  const Row row = tile.row;
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  const Items<T> score = load_items(prefix_scores + row.begin, first, row.length);
  const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
  LastValid<C> last{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (valid.of[i]) last = {widen(score.of[i]), true};
  }
  const auto scanned = block_scan<kThreads>(last, LastValid<C>{}, combine_last_valid<C>);
  scores.publish(tile.block, scanned.total);
  const LastValid<C> earlier = look_back<kThreads>(scores, tile, LastValid<C>{}, combine_last_valid<C>);
  const LastValid<C> before_tile = combine_last_valid(LastValid<C>{initials[tile.row_index], true}, earlier);
  C previous = combine_last_valid(before_tile, scanned.prefix).value;
  const C mix = mixes[tile.row_index];
  C before_last = 0;
  int64_t last_position = -1;
  Items<C> reward{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (!valid.of[i]) continue;
    before_last = previous;
    last_position = first + i;
    reward.of[i] = redistributed<C>(widen(score.of[i]), previous, mix, 0);
    previous = widen(score.of[i]);
  }
  store_items(rewards + row.begin, first, row.length, reward);
  // The last valid token of the row also gets the sequence's reward.
  if (sequence_rewards == nullptr || !scanned.total.any || valid_after(mask, tile)) return;
  const int64_t last_of_row =
      block_reduce<kThreads>(last_position, int64_t{-1}, [](int64_t a, int64_t b) { return a > b ? a : b; });
  if (last_position >= 0 && last_position == last_of_row) {
    rewards[row.begin + last_position] =
        redistributed<C>(last.value, before_last, mix, sequence_rewards[tile.row_index]);
  }
}

}  // namespace

Tensor redistribute_cuda(const Tensor& prefix_scores, const OptionalTensor& mask, double initial,
                         const OptionalTensor& row_initial, const OptionalTensor& sequence_rewards, double mix,
                         const OptionalTensor& row_mix, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("prefix_scores", prefix_scores);
  const RowsOf rows("prefix_scores", prefix_scores, cu_seqlens, device);
  const int64_t tokens = prefix_scores.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  const TileSchedule schedule{*rows};
  Tensor rewards;

  dispatch_floats("prefix_scores", prefix_scores.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("prefix_scores", prefix_scores, tokens, device);
    const auto initials = per_row<C>("initial", initial, row_initial, rows->count, device);
    const auto mixes = per_row<C>("mix", mix, row_mix, rows->count, device);
    const C* sparse = data<C>("sequence_rewards", sequence_rewards, rows->count, device);
    rewards = rows.empty_tokens<C>();
    const TileMemory memory("redistribute", schedule, TileAggregates<LastValid<C>>::kWords, device);
    launch("redistribute", redistribute_kernel<T>, schedule.count(), kThreads, device.stream(), in, valid, schedule,
           memory.aggregates<LastValid<C>>(), initials, mixes, sparse, mutable_data<C>(rewards));
  });
  return rewards;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("redistribute", TORCH_BOX(&segkernel::redistribute_cuda));
}
