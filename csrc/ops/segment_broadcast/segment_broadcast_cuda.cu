// Broadcast of segment values to tokens: one thread block per row, in two passes. The first finds the length or the
// last token of each segment, the second writes. Ids may be in any order.
#include "../../cuda/warp.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_broadcast.h"

namespace segkernel {

namespace {

constexpr int kThreads = 256;
using Count = unsigned long long;  // the type of 64-bit atomics

// Per segment of a row: its length (split), or the position after its last token (last). Integer atomics are
// independent of the order of threads.
template <Broadcast kHow>
__device__ void count_tokens(const int32_t* ids, int64_t length, int64_t segments, Count* known) {
  for (int64_t k = threadIdx.x; k < segments; k += kThreads) known[k] = 0;
  __syncthreads();
  for (int64_t tile = 0; tile < length; tile += kThreads) {
    const int64_t t = tile + threadIdx.x;
    const int32_t id = t < length ? ids[t] : -1;
    // One atomic per run of equal ids in the warp, by its first lane.
    const int32_t id_before = from_lane_before(id, 1);
    const unsigned first_lanes = __ballot_sync(kAllLanes, lane_index() == 0 || id != id_before);
    if ((first_lanes >> lane_index() & 1) == 0 || !in_segments(id, segments)) continue;
    const unsigned next_run = first_lanes & ~(kAllLanes >> (kWarp - 1 - lane_index()));
    const int run = (next_run == 0 ? kWarp : __ffs(next_run) - 1) - lane_index();
    if (kHow == Broadcast::split) {
      atomicAdd(&known[id], static_cast<Count>(run));
    } else {
      atomicMax(&known[id], static_cast<Count>(t + run));
    }
  }
  __syncthreads();
}

// `known`: scratch [B, S], unused by `repeat`.
template <Broadcast kHow, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    segment_broadcast_kernel(const T* values, const int32_t* ids, Rows rows, int64_t segments, Count* known, C* out) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  const T* row_values = values + b * segments;
  const int32_t* row_ids = ids + row.begin;
  Count* row_known = known + b * segments;
  if constexpr (kHow != Broadcast::repeat) count_tokens<kHow>(row_ids, row.length, segments, row_known);
  for (int64_t t = threadIdx.x; t < row.length; t += kThreads) {
    const int32_t k = row_ids[t];
    C share = 0;
    if (in_segments(k, segments)) {
      const auto length = kHow == Broadcast::split ? static_cast<int32_t>(row_known[k]) : 0;
      const bool is_last = kHow == Broadcast::last && row_known[k] == static_cast<Count>(t + 1);
      share = share_of<C>(kHow, widen(row_values[k]), length, is_last);
    }
    out[row.begin + t] = share;
  }
}

}  // namespace

Tensor segment_broadcast_cuda(const Tensor& values, const Tensor& ids, int64_t how, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("values", values);
  const RowsOf rows("ids", ids, cu_seqlens, device);
  const int64_t tokens = ids.numel();
  const int32_t* id_in = data<int32_t>("ids", ids, tokens, device);
  check(values.dim() == 2 && values.size(0) == rows->count, "values", "expected [B, S] with B = ", rows->count);
  check_code("how", how, static_cast<int64_t>(Broadcast::last));
  const int64_t segments = values.size(1);
  const bool needs_counts = static_cast<Broadcast>(how) != Broadcast::repeat;
  Tensor known = empty<int64_t>({rows->count, needs_counts ? segments : 0}, device);
  Tensor tokens_out;

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("values", values, rows->count * segments, device);
    tokens_out = rows.empty_tokens<C>();
    const auto run = [&]<Broadcast kHow>() {
      launch("segment_broadcast", segment_broadcast_kernel<kHow, T>, rows->count, kThreads, device.stream(), in, id_in,
             *rows, segments, reinterpret_cast<Count*>(mutable_data<int64_t>(known)), mutable_data<C>(tokens_out));
    };
    dispatch_broadcast(static_cast<Broadcast>(how), run);
  });
  return tokens_out;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment_broadcast", TORCH_BOX(&segkernel::segment_broadcast_cuda));
}
