// Segmentation by a mask: one thread block per tile of a row. A tile gets the number of runs that start in the earlier
// tiles of its row by decoupled look-back.
#include <tuple>

#include "../../torch/cuda_device.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "../../torch/tile_memory.cuh"
#include "segment_by_mask.h"

namespace segkernel {

namespace {

__global__ void __launch_bounds__(kThreads)
    segment_by_mask_kernel(const bool* mask, TileSchedule schedule, TileAggregates<int32_t> tile_runs, int32_t* ids,
                           int32_t* counts) {
  const Tile tile(schedule);
  if (!tile.exists()) return tile_runs.publish(tile.block, 0);
  const Row row = tile.row;
  const bool* row_mask = mask + row.begin;
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  bool starts[kItems];
  int32_t runs = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    starts[i] = first + i < row.length && starts_run(row_mask, first + i);
    runs += starts[i];
  }
  const auto add = [](int32_t a, int32_t b) { return a + b; };
  const auto scanned = block_scan<kThreads>(runs, 0, add);
  tile_runs.publish(tile.block, scanned.total);
  const int32_t earlier = look_back<kThreads>(tile_runs, tile, 0, add);
  int32_t id = earlier + scanned.prefix - 1;
  Items<int32_t> out;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    id += starts[i];
    out.of[i] = first + i < row.length && row_mask[first + i] ? id : -1;
  }
  store_items(ids + row.begin, first, row.length, out);
  if (tile.is_last() && threadIdx.x == 0) counts[tile.row_index] = earlier + scanned.total;
}

}  // namespace

std::tuple<Tensor, Tensor> segment_by_mask_cuda(const Tensor& mask, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("mask", mask);
  const RowsOf rows("mask", mask, cu_seqlens, device);
  const bool* in = data<bool>("mask", mask, mask.numel(), device);
  Tensor ids = rows.empty_tokens<int32_t>();
  Tensor counts = empty<int32_t>({rows->count}, device);
  const TileSchedule schedule{*rows};
  const TileMemory memory("segment_by_mask", schedule, TileAggregates<int32_t>::kWords, device);
  launch("segment_by_mask", segment_by_mask_kernel, schedule.count(), kThreads, device.stream(), in, schedule,
         memory.aggregates<int32_t>(), mutable_data<int32_t>(ids), mutable_data<int32_t>(counts));
  return {ids, counts};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment_by_mask", TORCH_BOX(&segkernel::segment_by_mask_cuda));
}
