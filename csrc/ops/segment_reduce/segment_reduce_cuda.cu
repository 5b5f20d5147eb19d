// Segment reductions: a block per row, a scan over its tokens that starts anew where the id changes. No atomics, so
// that sums have the same bits in every run.
#include "../../cuda/row_tiles.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_reduce.h"

namespace segkernel {

namespace {

// How tokens become one value: what one alone is, what neighbours are together, and what comes out.
template <Reduce kReduce, class C>
struct Folding {
  using Sum = C;
  __device__ static Sum of(C value) { return value; }
  __device__ static Sum together(Sum earlier, Sum later) { return fold<kReduce>(earlier, later); }
  __device__ static C result(Sum sum, int32_t tokens) { return finish<kReduce>(sum, tokens); }
};

template <class C>
struct LogSumming {
  using Sum = LogSumExp<C>;
  __device__ static Sum of(C value) {
    Sum sum{-static_cast<C>(INFINITY), 0};
    sum.add(value);
    return sum;
  }
  __device__ static Sum together(Sum earlier, const Sum& later) {
    earlier.merge(later);
    return earlier;
  }
  __device__ static C result(const Sum& sum, int32_t) { return sum.value(); }
};

// The run of equal ids that some tokens end with; none as long as there is no token of a segment.
template <class How>
struct Run {
  typename How::Sum sum;
  int32_t tokens;
  int32_t id;
};

constexpr int32_t kNoSegment = -1;

template <class How>
__device__ Run<How> join(const Run<How>& earlier, const Run<How>& later) {
  if (later.id == kNoSegment) return earlier;
  if (later.id != earlier.id) return later;
  return {How::together(earlier.sum, later.sum), earlier.tokens + later.tokens, later.id};
}

// Ids in any order, which `segment` never returns: a thread per segment looks at every token.
template <class How, class T, class C>
__device__ void reduce_in_any_order(const T* values, const int32_t* ids, int64_t length, int64_t segments, C* out) {
  for (int64_t k = threadIdx.x; k < segments; k += kThreads) {
    Run<How> run{How::of(0), 0, kNoSegment};
    for (int64_t t = 0; t < length; ++t) {
      if (ids[t] == k) run = join<How>(run, {How::of(widen(values[t])), 1, ids[t]});
    }
    out[k] = run.id == kNoSegment ? 0 : How::result(run.sum, run.tokens);
  }
}

template <class How, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    segment_reduce_kernel(const T* values, const int32_t* ids, Rows rows, int64_t segments, C* reduced) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  C* out = reduced + b * segments;
  for (int64_t k = threadIdx.x; k < segments; k += kThreads) out[k] = 0;
  __syncthreads();

  const Run<How> none{How::of(0), 0, kNoSegment};
  Run<How> carried = none;
  bool in_order = true;
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const int64_t first = tile + threadIdx.x * kItems;
    const Items<T> value = load_items(values + row.begin, first, row.length);
    const Items<int32_t> id = load_items(ids + row.begin, first, row.length);
    Run<How> own[kItems];
    Run<How> run = none;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const bool counts = first + i < row.length && in_segments(id.of[i], segments);
      own[i] = counts ? Run<How>{How::of(widen(value.of[i])), 1, id.of[i]} : none;
      run = join(run, own[i]);
    }
    const auto scanned = block_scan<kThreads>(run, none, join<How>);
    run = join(carried, scanned.before);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (own[i].id == kNoSegment) continue;
      if (run.id != kNoSegment && run.id != own[i].id) {  // the run before has ended
        out[run.id] = How::result(run.sum, run.tokens);
        in_order &= run.id < own[i].id;
      }
      run = join(run, own[i]);
    }
    carried = join(carried, scanned.all);
  }
  if (threadIdx.x == 0 && carried.id != kNoSegment) out[carried.id] = How::result(carried.sum, carried.tokens);
  if (__syncthreads_or(!in_order)) {
    reduce_in_any_order<How>(values + row.begin, ids + row.begin, row.length, segments, out);
  }
}

}  // namespace

Tensor segment_reduce_cuda(const Tensor& values, const Tensor& ids, int64_t segments, int64_t reduce,
                           const OptionalTensor& cu_seqlens) {
  const DeviceScope device("values", values);
  const RowsOf rows("values", values, cu_seqlens, device);
  const int64_t tokens = values.numel();
  const int32_t* id_in = data<int32_t>("ids", ids, tokens, device);
  check(segments >= 0, "num_segments", "expected >= 0, got ", segments);
  check_code("reduce", reduce, kLogSumExp);
  Tensor reduced;

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("values", values, tokens, device);
    reduced = empty<C>({rows->count, segments}, device);
    const auto run = [&]<class How>() {
      launch("segment_reduce", segment_reduce_kernel<How, T>, rows->count, kThreads, device.stream(), in, id_in, *rows,
             segments, mutable_data<C>(reduced));
    };
    if (reduce == kLogSumExp) return run.template operator()<LogSumming<C>>();
    dispatch_reduce(static_cast<Reduce>(reduce),
                    [&]<Reduce kReduce>() { run.template operator()<Folding<kReduce, C>>(); });
  });
  return reduced;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment_reduce", TORCH_BOX(&segkernel::segment_reduce_cuda));
}
