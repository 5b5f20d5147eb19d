// Loops over one row of logits by one thread block.
#pragma once

#include <type_traits>

#include "../../core/dtypes.h"
#include "../../core/errors.h"
#include "../../core/scalar_vec.h"
#include "../../cuda/vector_io.cuh"
#include "../../cuda/warp.cuh"
#include "token_logprobs_terms.h"

namespace segkernel {

constexpr int kLogitThreads = 256;
// Loads of 16 bytes per thread, issued before the first result is used.
constexpr int kLoads = 4;
// Occupancy: 4 blocks leave 64 registers per thread and keep up to 64 KB of loads in flight per multiprocessor. About
// 20 KB are needed to saturate its share of the memory bandwidth.
constexpr int kBlocksPerMultiprocessor = 4;
constexpr int64_t kMaxRowLength = int64_t{1} << 30;  // elements of a row have 32-bit indices

inline void check_row_length(int64_t logits) {
  check(logits <= kMaxRowLength, "logits", "expected at most ", kMaxRowLength, " in a row, got ", logits);
}

// Calls body(capped, entropy) with both as compile-time constants.
template <class Body>
void dispatch_bools(bool capped, bool entropy, const Body& body) {
  const auto with_cap = [&](auto capped) {
    entropy ? body(capped, std::true_type{}) : body(capped, std::false_type{});
  };
  capped ? with_cap(std::true_type{}) : with_cap(std::false_type{});
}

// y of one logit. All passes compute it here, with the same bits.
template <bool kCapped, class C>
__device__ inline C y_of(C x, C inner) {
  return kCapped ? tanh(ScalarVec<C>{x * inner}).v : x;
}

template <class C>
__device__ inline C larger(C a, C b) {
  return a > b ? a : b;
}
template <>
__device__ inline float larger(float a, float b) {
  return fmaxf(a, b);
}

// Merges the elements of kLoads vectors into `running`: y(x, u, j) for logit x, element j of vector u.
template <bool kEntropy, class T, class C, class Y>
__device__ inline void accumulate_vectors(const uint4 (&words)[kLoads], C factor, const Y& y, RunningSums<C>& running) {
  const auto max = [&] {
    C max = -INFINITY;
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) max = larger(max, y(widened<T>(words[u], j), u, j));
    }
    return max;
  };
  const auto sums = [&](C reference) {
    // A part of -inf only has no finite maximum as its reference.
    const auto difference = Difference<ScalarVec<C>>::make(factor, reference == -INFINITY ? 0 : reference);
    TermSums<ScalarVec<C>, kEntropy> terms;
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) terms.add({y(widened<T>(words[u], j), u, j)}, difference);
    }
    return RunningSums<C>{reference, terms.sum.v, terms.weighted.v};
  };
  accumulate_part(running, factor, max, sums);
}

// Sums over this thread's vectors of a row: every kLogitThreads-th, kLoads at a time.
template <bool kCapped, bool kEntropy, class T, class C = compute_t<T>>
__device__ inline RunningSums<C> thread_sums(const T* row, int count, C factor, C inner) {
  constexpr int kStride = kLogitThreads * kPerVector<T>;
  constexpr int kChunk = kLoads * kStride;
  const RowVectors<T> vectors(row, count, 0);
  auto running = RunningSums<C>::empty();
  int mine = static_cast<int>(threadIdx.x) * kPerVector<T>;
  for (int chunk = 0; chunk < count;) {
    uint4 words[kLoads];
    for (; vectors.loadable(chunk, chunk + kChunk - kPerVector<T>); chunk += kChunk, mine += kChunk) {
      vectors.load(mine, kStride, words);
      const auto y = [=](C x, int, int) { return y_of<kCapped>(x, inner); };
      accumulate_vectors<kEntropy, T>(words, factor, y, running);
    }
    if (chunk >= count) break;
    vectors.gather(mine, kStride, words);
    const auto y = [=](C x, int u, int j) {
      return mine + u * kStride + j < count ? y_of<kCapped>(x, inner) : C{-INFINITY};
    };
    accumulate_vectors<kEntropy, T>(words, factor, y, running);
    chunk += kChunk, mine += kChunk;
  }
  return running;
}

// Sums over a row, in all threads of the block.
template <bool kCapped, bool kEntropy, class T, class C = compute_t<T>>
__device__ inline Running row_sums(const T* row, int count, const LogitTransform& transform) {
  const C factor = static_cast<C>(transform.factor);
  const auto mine = thread_sums<kCapped, kEntropy>(row, count, factor, static_cast<C>(transform.inner));
  const auto all = block_reduce<kLogitThreads>(
      mine, RunningSums<C>::empty(),
      [=](const RunningSums<C>& a, const RunningSums<C>& b) { return merge(a, b, factor); });
  return {all.max, all.sum, all.weighted};
}

// Writes value_of(x) for every logit x of a row to `out`, which may be the row itself.
template <class T, class ValueOf>
__device__ inline void map_row(const T* row, T* out, int count, const ValueOf& value_of) {
  constexpr int kStride = kLogitThreads * kPerVector<T>;
  constexpr int kChunk = kLoads * kStride;
  const int first = first_vector(out);
  const RowVectors<T> vectors(row, count, first);
  for (int chunk = first; chunk < count; chunk += kChunk) {
    const int mine = chunk + static_cast<int>(threadIdx.x) * kPerVector<T>;
    uint4 words[kLoads];
    if (vectors.loadable(chunk, chunk + kChunk - kPerVector<T>)) {
      vectors.load(mine, kStride, words);
    } else {
      vectors.gather(mine, kStride, words);
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      Elements<T> elements;
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) elements.at[j] = narrow<T>(value_of(widened<T>(words[u], j)));
      store_vector(out, count, mine + u * kStride, elements);
    }
  }
}

// Fills a row with `value`.
template <class T>
__device__ inline void fill_row(T* out, int count, T value) {
  Elements<T> elements;
#pragma unroll
  for (int j = 0; j < kPerVector<T>; ++j) elements.at[j] = value;
  const int first = first_vector(out) + static_cast<int>(threadIdx.x) * kPerVector<T>;
  for (int i = first; i < count; i += kLogitThreads * kPerVector<T>) store_vector(out, count, i, elements);
}

// Writes the gradient with respect to a row of logits to `grad`, which may be the row itself. `label`: the index of the
// label in the row, negative if the label is not in it.
template <bool kCapped, bool kEntropy, class T, class C = compute_t<T>>
__device__ inline void write_row_gradient(const T* row, T* grad, int count, int label, const LogitTransform& transform,
                                          const RowGradient& gradient) {
  __shared__ OffLabelCoefficients coefficients;
  const C inner = static_cast<C>(transform.inner);
  // Double precision is slow on some GPUs, so one thread computes each of these values.
  const bool has_label = label >= 0 && threadIdx.x == kLogitThreads - 1;
  C label_y = 0;
  if (has_label) label_y = y_of<kCapped>(widen(row[label]), inner);
  if (threadIdx.x == 0) coefficients = gradient.off_label(transform);
  __syncthreads();
  const C at_label = has_label ? static_cast<C>(gradient.at_label(label_y, transform)) : C{0};
  const auto off_label = OffLabelGradient<ScalarVec<C>, kCapped, kEntropy>::make(transform, coefficients);
  map_row(row, grad, count, [=](C x) { return off_label({y_of<kCapped>(x, inner)}).v; });
  __syncthreads();
  if (has_label) grad[label] = narrow<T>(at_label);
}

}  // namespace segkernel
