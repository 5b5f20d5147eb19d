// Segment reductions: one thread block per row, which does a segmented scan over its tokens. No floating-point atomics,
// so sums have the same bits in every run.
#include "../../cuda/row_tiles.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_reduce.h"

namespace segkernel {

namespace {

// A reduction as a monoid: the state of one value, the combination of two states, and the result of a state.
template <Reduce kReduce, class C>
struct FoldMonoid {
  using State = C;
  __device__ static State of(C value) { return value; }
  __device__ static State combine(State earlier, State later) { return fold<kReduce>(earlier, later); }
  __device__ static C result(State state, int32_t tokens) { return finish<kReduce>(state, tokens); }
};

template <class C>
struct LogSumExpMonoid {
  using State = LogSumExp<C>;
  __device__ static State of(C value) {
    State state{-static_cast<C>(INFINITY), 0};
    state.add(value);
    return state;
  }
  __device__ static State combine(State earlier, const State& later) {
    earlier.merge(later);
    return earlier;
  }
  __device__ static C result(const State& state, int32_t) { return state.value(); }
};

// Scan state: the last run of equal ids. Its id is kNoSegment before the first token that belongs to a segment.
template <class Monoid>
struct Run {
  typename Monoid::State state;
  int32_t tokens;
  int32_t id;
};

constexpr int32_t kNoSegment = -1;

template <class Monoid>
__device__ Run<Monoid> combine_runs(const Run<Monoid>& earlier, const Run<Monoid>& later) {
  if (later.id == kNoSegment) return earlier;
  if (later.id != earlier.id) return later;
  return {Monoid::combine(earlier.state, later.state), earlier.tokens + later.tokens, later.id};
}

// Slow path for ids that decrease, which `segment` never returns: one thread per segment visits all tokens.
template <class Monoid, class T, class C>
__device__ void reduce_in_any_order(const T* values, const int32_t* ids, int64_t length, int64_t segments, C* out) {
  for (int64_t k = threadIdx.x; k < segments; k += kThreads) {
    Run<Monoid> run{Monoid::of(0), 0, kNoSegment};
    for (int64_t t = 0; t < length; ++t) {
      if (ids[t] == k) run = combine_runs<Monoid>(run, {Monoid::of(widen(values[t])), 1, ids[t]});
    }
    out[k] = run.id == kNoSegment ? 0 : Monoid::result(run.state, run.tokens);
  }
}

template <class Monoid, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    segment_reduce_kernel(const T* values, const int32_t* ids, Rows rows, int64_t segments, C* reduced) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  C* out = reduced + b * segments;
  for (int64_t k = threadIdx.x; k < segments; k += kThreads) out[k] = 0;
  __syncthreads();

  const Run<Monoid> none{Monoid::of(0), 0, kNoSegment};
  Run<Monoid> carried = none;
  bool in_order = true;
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const int64_t first = tile + threadIdx.x * kItems;
    const Items<T> value = load_items(values + row.begin, first, row.length);
    const Items<int32_t> id = load_items(ids + row.begin, first, row.length);
    Run<Monoid> own[kItems];
    Run<Monoid> run = none;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const bool counts = first + i < row.length && in_segments(id.of[i], segments);
      own[i] = counts ? Run<Monoid>{Monoid::of(widen(value.of[i])), 1, id.of[i]} : none;
      run = combine_runs(run, own[i]);
    }
    const auto scanned = block_scan<kThreads>(run, none, combine_runs<Monoid>);
    run = combine_runs(carried, scanned.prefix);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (own[i].id == kNoSegment) continue;
      if (run.id != kNoSegment && run.id != own[i].id) {  // the previous run has ended
        out[run.id] = Monoid::result(run.state, run.tokens);
        in_order &= run.id < own[i].id;
      }
      run = combine_runs(run, own[i]);
    }
    carried = combine_runs(carried, scanned.total);
  }
  if (threadIdx.x == 0 && carried.id != kNoSegment) out[carried.id] = Monoid::result(carried.state, carried.tokens);
  if (__syncthreads_or(!in_order)) {
    reduce_in_any_order<Monoid>(values + row.begin, ids + row.begin, row.length, segments, out);
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
    const auto run = [&]<class Monoid>() {
      launch("segment_reduce", segment_reduce_kernel<Monoid, T>, rows->count, kThreads, device.stream(), in, id_in,
             *rows, segments, mutable_data<C>(reduced));
    };
    if (reduce == kLogSumExp) return run.template operator()<LogSumExpMonoid<C>>();
    dispatch_reduce(static_cast<Reduce>(reduce),
                    [&]<Reduce kReduce>() { run.template operator()<FoldMonoid<kReduce, C>>(); });
  });
  return reduced;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment_reduce", TORCH_BOX(&segkernel::segment_reduce_cuda));
}
