// Entropy segmentation: one warp per row. Whether a segment may start depends on the start of the last one, so the warp
// visits the row's uncertain tokens in order. All other steps process 32 tokens at a time.
#include <tuple>

#include "../../cuda/warp.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_by_entropy.h"

namespace segkernel {

namespace {

constexpr int kRowsPerBlock = 4;
constexpr int kLoads = 8;  // per lane, issued before the first result is used

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    segment_by_entropy_kernel(const T* entropy, const bool* mask, Rows rows, PerRow<C> thresholds, int64_t min_length,
                              int32_t* ids, int32_t* counts) {
  const int64_t b = int64_t{blockIdx.x} * kRowsPerBlock + warp_index();
  if (b >= rows.count) return;
  const Row row = rows[b];
  const C threshold = thresholds[b];
  const int lane = lane_index();
  int32_t segments = 0;
  int64_t tokens = 0;         // valid tokens so far
  int64_t segment_begin = 0;  // valid tokens before the running segment
  for (int64_t tile = 0; tile < row.length; tile += kLoads * kWarp) {
    bool is_token[kLoads];
    bool uncertain[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t t = tile + i * kWarp + lane;
      is_token[i] = t < row.length && (mask == nullptr || mask[row.begin + t]);
      uncertain[i] = is_token[i] && is_uncertain<C>(widen(entropy[row.begin + t]), threshold);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      // Uniform over the lanes, up to the ids.
      const unsigned valid = __ballot_sync(kAllLanes, is_token[i]);
      const unsigned candidates = __ballot_sync(kAllLanes, uncertain[i]);
      const int32_t segments_before = segments;
      unsigned starts = 0;
      const unsigned first_of_row = segments == 0 ? valid & (0 - valid) : 0;
      for (unsigned rest = candidates | first_of_row; rest != 0; rest &= rest - 1) {
        const unsigned bit = rest & (0 - rest);
        const int64_t token = tokens + __popc(valid & (bit - 1));
        const int64_t length = segments == 0 ? 0 : token - segment_begin;
        if (!starts_entropy_segment(length, (candidates & bit) != 0, min_length)) continue;
        starts |= bit;
        segment_begin = token;
        ++segments;
      }
      tokens += __popc(valid);
      const int64_t t = tile + i * kWarp + lane;
      if (t < row.length)
        ids[row.begin + t] = is_token[i] ? segments_before + __popc(starts & lanes_through()) - 1 : -1;
    }
  }
  if (lane == 0) counts[b] = segments;
}

}  // namespace

std::tuple<Tensor, Tensor> segment_by_entropy_cuda(const Tensor& entropy, const OptionalTensor& mask, double threshold,
                                                   const OptionalTensor& row_threshold, int64_t min_length,
                                                   const OptionalTensor& cu_seqlens) {
  const DeviceScope device("entropy", entropy);
  const RowsOf rows("entropy", entropy, cu_seqlens, device);
  const int64_t tokens = entropy.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  Tensor ids = rows.empty_tokens<int32_t>();
  Tensor counts = empty<int32_t>({rows->count}, device);

  dispatch_floats("entropy", entropy.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = data<T>("entropy", entropy, tokens, device);
    const auto thresholds = per_row<compute_t<T>>("threshold", threshold, row_threshold, rows->count, device);
    const int64_t blocks = (rows->count + kRowsPerBlock - 1) / kRowsPerBlock;
    launch("segment_by_entropy", segment_by_entropy_kernel<T>, blocks, kRowsPerBlock * kWarp, device.stream(), in,
           valid, *rows, thresholds, min_length, mutable_data<int32_t>(ids), mutable_data<int32_t>(counts));
  });
  return {ids, counts};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment_by_entropy", TORCH_BOX(&segkernel::segment_by_entropy_cuda));
}
