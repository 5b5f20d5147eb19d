// Reward redistribution: one thread block per row, which carries the last valid score from tile to tile.
#include "../../cuda/row_tiles.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "redistribute.h"

namespace segkernel {

namespace {

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    redistribute_kernel(const T* prefix_scores, const bool* mask, Rows rows, PerRow<C> initials, PerRow<C> mixes,
                        const C* sequence_rewards, C* rewards) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  const C mix = mixes[b];
  LastValid<C> carried{initials[b], true};
  // This thread's last valid token of the row. The sparse part goes to the last of all threads'.
  int64_t last_position = -1;
  C last_score = 0;
  C score_before_last = 0;
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const int64_t first = tile + threadIdx.x * kItems;
    const Items<T> score = load_items(prefix_scores + row.begin, first, row.length);
    const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
    LastValid<C> last{};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (valid.of[i]) last = {widen(score.of[i]), true};
    }
    const auto scanned = block_scan<kThreads>(last, LastValid<C>{}, combine_last_valid<C>);
    C previous = combine_last_valid(carried, scanned.prefix).value;
    Items<C> reward{};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!valid.of[i]) continue;
      last_position = first + i;
      last_score = widen(score.of[i]);
      score_before_last = previous;
      reward.of[i] = redistributed<C>(last_score, previous, mix, 0);
      previous = last_score;
    }
    store_items(rewards + row.begin, first, row.length, reward);
    carried = combine_last_valid(carried, scanned.total);
  }
  if (sequence_rewards == nullptr) return;
  const int64_t last_of_row =
      block_reduce<kThreads>(last_position, int64_t{-1}, [](int64_t a, int64_t b) { return a > b ? a : b; });
  if (last_position >= 0 && last_position == last_of_row) {
    rewards[row.begin + last_position] = redistributed<C>(last_score, score_before_last, mix, sequence_rewards[b]);
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
  Tensor rewards;

  dispatch_floats("prefix_scores", prefix_scores.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("prefix_scores", prefix_scores, tokens, device);
    const auto initials = per_row<C>("initial", initial, row_initial, rows->count, device);
    const auto mixes = per_row<C>("mix", mix, row_mix, rows->count, device);
    const C* sparse = data<C>("sequence_rewards", sequence_rewards, rows->count, device);
    rewards = rows.empty_tokens<C>();
    launch("redistribute", redistribute_kernel<T>, rows->count, kThreads, device.stream(), in, valid, *rows, initials,
           mixes, sparse, mutable_data<C>(rewards));
  });
  return rewards;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("redistribute", TORCH_BOX(&segkernel::redistribute_cuda));
}
