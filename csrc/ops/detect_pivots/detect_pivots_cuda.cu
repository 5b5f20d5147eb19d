// Pivots: one thread block per row, which carries the last valid reward from tile to tile.
#include "../../cuda/row_tiles.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "detect_pivots.h"

namespace segkernel {

namespace {

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    detect_pivots_kernel(const T* rewards, const bool* mask, Rows rows, PerRow<C> thresholds, bool* pivots) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  const C threshold = thresholds[b];
  LastValid<C> carried{};
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const int64_t first = tile + threadIdx.x * kItems;
    const Items<T> reward = load_items(rewards + row.begin, first, row.length);
    const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
    LastValid<C> last{};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (valid.of[i]) last = {widen(reward.of[i]), true};
    }
    const auto scanned = block_scan<kThreads>(last, LastValid<C>{}, combine_last_valid<C>);
    LastValid<C> previous = combine_last_valid(carried, scanned.prefix);
    Items<bool> pivot{};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!valid.of[i]) continue;
      pivot.of[i] = !previous.any | is_pivot<C>(widen(reward.of[i]), previous.value, threshold);
      previous = {widen(reward.of[i]), true};
    }
    store_items(pivots + row.begin, first, row.length, pivot);
    carried = combine_last_valid(carried, scanned.total);
  }
}

}  // namespace

Tensor detect_pivots_cuda(const Tensor& rewards, const OptionalTensor& mask, double threshold,
                          const OptionalTensor& row_threshold, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("rewards", rewards);
  const RowsOf rows("rewards", rewards, cu_seqlens, device);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  Tensor pivots = rows.empty_tokens<bool>();

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = data<T>("rewards", rewards, tokens, device);
    const auto thresholds = per_row<compute_t<T>>("threshold", threshold, row_threshold, rows->count, device);
    launch("detect_pivots", detect_pivots_kernel<T>, rows->count, kThreads, device.stream(), in, valid, *rows,
           thresholds, mutable_data<bool>(pivots));
  });
  return pivots;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("detect_pivots", TORCH_BOX(&segkernel::detect_pivots_cuda));
}
