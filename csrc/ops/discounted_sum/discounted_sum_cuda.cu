// Discounted sum: one thread block per tile of a row, from the last to the first, or, for the adjoint, from the first
// to the last. The recursion is a scan of affine functions; a tile gets that of the tiles before it by decoupled
// look-back.
#include "../../cuda/affine.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "../../torch/tile_memory.cuh"
#include "discounted_sum.h"

namespace segkernel {

namespace {

template <bool kAdjoint, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    discounted_sum_kernel(const T* values, const bool* mask, TileSchedule schedule, TileAggregates<Affine<C>> all,
                          PerRow<C> discounts, C* sums) {
  const Tile tile(schedule);
  if (!tile.exists()) return all.publish(tile.block, Affine<C>{1, 0});
  const Row row = tile.row;
  const C discount = discounts[tile.row_index];
  const int thread = kAdjoint ? threadIdx.x : kThreads - 1 - threadIdx.x;
  const int64_t first = (kAdjoint ? tile.begin() : tile.begin_from_end()) + thread * kItems;
  const Items<T> value = load_items(values + row.begin, first, row.length);
  const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
  const auto sums_from = [&](C sum, auto&& each) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int i = kAdjoint ? j : kItems - 1 - j;
      if (!valid.of[i]) continue;
      sum = discounted<C>(widen(value.of[i]), discount, sum);
      each(i, sum);
    }
    return sum;
  };
  Affine<C> tokens{1, 0};
  tokens.gain = sums_from(0, [&](int, C) { tokens.decay *= discount; });
  const auto before = block_scan<kThreads>(tokens, Affine<C>{1, 0}, compose<C>);
  all.publish(tile.block, before.total);
  const Affine<C> earlier = look_back_by_distance<kThreads>(all, tile, Affine<C>{1, 0}, compose<C>);
  Items<C> sum{};
  sums_from(before.prefix(earlier(0)), [&](int i, C sum_here) { sum.of[i] = sum_here; });
  store_items(sums + row.begin, first, row.length, sum);
}

}  // namespace

Tensor discounted_sum_cuda(const Tensor& values, const OptionalTensor& mask, double discount,
                           const OptionalTensor& row_discount, bool adjoint, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("values", values);
  const RowsOf rows("values", values, cu_seqlens, device);
  const int64_t tokens = values.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  const TileSchedule schedule{*rows};
  Tensor sums;

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("values", values, tokens, device);
    const auto discounts = per_row<C>("discount", discount, row_discount, rows->count, device);
    sums = rows.empty_tokens<C>();
    const auto kernel = adjoint ? discounted_sum_kernel<true, T> : discounted_sum_kernel<false, T>;
    const TileMemory memory("discounted_sum", schedule, TileAggregates<Affine<C>>::kWords, device);
    launch("discounted_sum", kernel, schedule.count(), kThreads, device.stream(), in, valid, schedule,
           memory.aggregates<Affine<C>>(), discounts, mutable_data<C>(sums));
  });
  return sums;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("discounted_sum", TORCH_BOX(&segkernel::discounted_sum_cuda));
}
