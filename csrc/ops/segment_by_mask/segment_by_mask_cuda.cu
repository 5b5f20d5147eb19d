// Segmentation by a mask: one thread block per row, which carries the number of runs from tile to tile.
#include <tuple>

#include "../../cuda/row_tiles.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_by_mask.h"

namespace segkernel {

namespace {

__global__ void __launch_bounds__(kThreads)
    segment_by_mask_kernel(const bool* mask, Rows rows, int32_t* ids, int32_t* counts) {
  const Row row = rows[blockIdx.x];
  const bool* row_mask = mask + row.begin;
  const auto add = [](int32_t a, int32_t b) { return a + b; };
  int32_t runs = 0;
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const int64_t first = tile + threadIdx.x * kItems;
    bool starts[kItems];
    int32_t count = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      starts[i] = first + i < row.length && starts_run(row_mask, first + i);
      count += starts[i];
    }
    const auto scanned = block_scan<kThreads>(count, 0, add);
    int32_t id = runs + scanned.prefix - 1;
    Items<int32_t> out;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      id += starts[i];
      out.of[i] = first + i < row.length && row_mask[first + i] ? id : -1;
    }
    store_items(ids + row.begin, first, row.length, out);
    runs += scanned.total;
  }
  if (threadIdx.x == 0) counts[blockIdx.x] = runs;
}

}  // namespace

std::tuple<Tensor, Tensor> segment_by_mask_cuda(const Tensor& mask, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("mask", mask);
  const RowsOf rows("mask", mask, cu_seqlens, device);
  const bool* in = data<bool>("mask", mask, mask.numel(), device);
  Tensor ids = rows.empty_tokens<int32_t>();
  Tensor counts = empty<int32_t>({rows->count}, device);
  launch("segment_by_mask", segment_by_mask_kernel, rows->count, kThreads, device.stream(), in, *rows,
         mutable_data<int32_t>(ids), mutable_data<int32_t>(counts));
  return {ids, counts};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment_by_mask", TORCH_BOX(&segkernel::segment_by_mask_cuda));
}
