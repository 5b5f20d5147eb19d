// Loops over one row of logits.
//
// A row is read in chunks. Chunk i belongs to group i % kGroups of the row's threads, and each warp of a group sums its
// share of the group's chunks. The sums of the row are those of all warps, merged in a fixed order. A block of
// kLogitThreads threads is each group in turn; a block of kGroups times as many threads is all groups at once. The bits
// are the same.
#pragma once

#include "../../core/dtypes.h"
#include "../../core/errors.h"
#include "../../core/scalar_vec.h"
#include "../../cuda/vector_io.cuh"
#include "../../cuda/warp.cuh"
#include "token_logprobs_terms.h"

namespace segkernel {

constexpr int kLogitThreads = 256;  // of a group
constexpr int kGroups = 4;
constexpr int kWarpsOfRow = kGroups * kWarpsOf<kLogitThreads>;
static_assert(kWarpsOfRow == kWarp);  // one lane per warp merges their sums
// Loads of 16 bytes per thread, issued before the first result is used.
constexpr int kLoads = 4;
template <class T>
constexpr int kStride = kLogitThreads * kPerVector<T>;
template <class T>
constexpr int kChunk = kLoads * kStride<T>;
// Occupancy: 4 blocks leave 64 registers per thread and keep up to 64 KB of loads in flight per multiprocessor. About
// 20 KB are needed to saturate its share of the memory bandwidth.
constexpr int kBlocksPerMultiprocessor = 4;
// All statistics of a row take more registers than that: 2 blocks keep up to 32 KB of loads in flight.
template <Outputs kOutputs>
constexpr int kBlocksOf = has_statistics(kOutputs) ? 2 : kBlocksPerMultiprocessor;
constexpr int64_t kMaxRowLength = int64_t{1} << 30;  // elements of a row have 32-bit indices

inline void check_row_length(int64_t logits) {
  check(logits <= kMaxRowLength, "logits", "expected at most ", kMaxRowLength, " in a row, got ", logits);
}

// Calls body(value) with the value as a compile-time constant.
template <class Body>
void dispatch_bool(bool value, const Body& body) {
  value ? body(std::true_type{}) : body(std::false_type{});
}

// y of one logit. All passes compute it here, with the same bits.
template <bool kCapped, class C>
__device__ inline C y_of(C x, C inner) {
  return kCapped ? tanh_of_product(x, inner) : x;
}

template <class C>
__device__ inline C larger(C a, C b) {
  return a > b ? a : b;
}
template <>
__device__ inline float larger(float a, float b) {
  return fmaxf(a, b);
}

// Merges the elements of kLoads vectors into `running`: y(x, u, j) for logit x, element j of vector u. kFinite: no y is
// infinite.
template <bool kFinite, Outputs kOutputs, class T, class C, class Y>
__device__ inline void accumulate_vectors(const uint4 (&words)[kLoads], C factor, const Y& y, RunningSums<C>& running) {
  const auto max_of = [&](auto vectors) {
    C max = -INFINITY;
#pragma unroll
    for (int u = 0; u < vectors; ++u) {
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) max = larger(max, y(widened<T>(words[u], j), u, j));
    }
    return max;
  };
  const auto sums = [&](C reference) {
    // A part of -inf only has no finite maximum as its reference.
    const auto difference = Difference<ScalarVec<C>>::make(factor, reference == -INFINITY ? 0 : reference);
    TermSums<ScalarVec<C>, kOutputs, kFinite> terms;
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) terms.add({y(widened<T>(words[u], j), u, j)}, difference);
    }
    return RunningSums<C>{reference, terms.sum.v, terms.weighted.v, terms.squares.v};
  };
  const auto max_of_first = [&] { return max_of(std::integral_constant<int, 1>{}); };
  const auto max = [&] { return max_of(std::integral_constant<int, kLoads>{}); };
  accumulate_part(running, factor, max_of_first, max, sums);
}

// Adds the y of kLoads vectors to `totals`: y(x, u, j) as above. The first vector begins at index `first`; unless they
// are whole, elements with an index >= `count` are no logits. The index in `totals` becomes `first`: see
// `index_of_largest`.
template <bool kWhole, class T, class C, class Y>
__device__ inline void add_totals(const uint4 (&words)[kLoads], int first, int count, const Y& y, Totals<C>& totals) {
  C largest = -INFINITY;
#pragma unroll
  for (int u = 0; u < kLoads; ++u) {
#pragma unroll
    for (int j = 0; j < kPerVector<T>; ++j) {
      const C value = y(widened<T>(words[u], j), u, j);
      largest = larger(largest, value);
      if (kWhole || first + u * kStride<T> + j < count) totals.total += value;
    }
  }
  if (!(largest > totals.largest)) return;
  totals.largest = largest;
  totals.index = first;
}

// Sums over this thread's vectors of a group's chunks: every kLogitThreads-th of a chunk.
template <bool kCapped, Outputs kOutputs, class T, class C = compute_t<T>>
__device__ inline RowSums<C> thread_sums(const T* row, int count, int group, C factor, C inner) {
  constexpr int kStep = kGroups * kChunk<T>;
  const RowVectors<T> vectors(row, count, 0);
  auto sums = RowSums<C>::empty();
  int chunk = group * kChunk<T>;
  int mine = chunk + static_cast<int>(threadIdx.x) % kLogitThreads * kPerVector<T>;
  while (chunk < count) {
    uint4 words[kLoads];
    for (; vectors.loadable(chunk, chunk + kChunk<T> - kPerVector<T>); chunk += kStep, mine += kStep) {
      vectors.load(mine, kStride<T>, words);
      const auto y = [=](C x, int, int) { return y_of<kCapped>(x, inner); };
      // First the totals, which need every y: the compiler keeps them for the sums.
      if constexpr (has_statistics(kOutputs)) add_totals<true, T>(words, mine, count, y, sums.totals);
      accumulate_vectors<kCapped, kOutputs, T>(words, factor, y, sums.running);
    }
    if (chunk >= count) break;
    vectors.gather(mine, kStride<T>, words);
    const auto y = [=](C x, int u, int j) {
      return mine + u * kStride<T> + j < count ? y_of<kCapped>(x, inner) : C{-INFINITY};
    };
    if constexpr (has_statistics(kOutputs)) add_totals<false, T>(words, mine, count, y, sums.totals);
    accumulate_vectors<false, kOutputs, T>(words, factor, y, sums.running);
    chunk += kStep, mine += kStep;
  }
  return sums;
}

// Index of the first y that equals `largest`, among the vectors that begin at index `first`, which are read again.
template <bool kCapped, class T, class C>
__device__ inline int64_t index_of_largest(const T* row, int count, int first, C inner, C largest) {
  uint4 words[kLoads];
  RowVectors<T>(row, count, 0).gather(first, kStride<T>, words);
  int64_t index = Totals<C>::kNone;
#pragma unroll
  for (int u = kLoads - 1; u >= 0; --u) {
#pragma unroll
    for (int j = kPerVector<T> - 1; j >= 0; --j) {
      const int i = first + u * kStride<T> + j;
      if (i < count && y_of<kCapped>(widened<T>(words[u], j), inner) == largest) index = i;
    }
  }
  return index;
}

// The merged sums of the lanes of a warp, in all lanes.
template <Outputs kOutputs, class C>
__device__ inline RunningSums<C> warp_sums(const RunningSums<C>& mine, C factor) {
  const auto add = [](C a, C b) { return a + b; };
  const C max = warp_reduce(mine.max, [](C a, C b) { return larger(a, b); });
  const RunningSums<C> relative = mine.relative_to(max, factor);
  return {max, warp_reduce(relative.sum, add), has_entropies(kOutputs) ? warp_reduce(relative.weighted, add) : 0,
          has_statistics(kOutputs) ? warp_reduce(relative.squares, add) : 0};
}

// The merged totals of the lanes of a warp, in all lanes. index() returns the index of the lane's largest y; only lanes
// with the warp's maximum call it.
template <class C, class Index>
__device__ inline Totals<C> warp_totals(const Totals<C>& mine, const Index& index) {
  const C total = warp_reduce(mine.total, [](C a, C b) { return a + b; });
  const C largest = warp_reduce(mine.largest, [](C a, C b) { return larger(a, b); });
  const bool has_it = mine.index != Totals<C>::kNone && mine.largest == largest;
  const auto first = [](int64_t a, int64_t b) { return a < b ? a : b; };
  return {total, largest, warp_reduce(has_it ? index() : Totals<C>::kNone, first)};
}

// Writes the calling warp's sums over the chunks of its group to `of_warps`, the sums of all warps of the row.
template <bool kCapped, Outputs kOutputs, class T, class C = compute_t<T>>
__device__ inline void sum_group(const T* row, int count, int group, const LogitTransform& transform,
                                 RowSums<C> (&of_warps)[kWarpsOfRow]) {
  const C factor = static_cast<C>(transform.factor), inner = static_cast<C>(transform.inner);
  const auto mine = thread_sums<kCapped, kOutputs>(row, count, group, factor, inner);
  RowSums<C> sums{warp_sums<kOutputs>(mine.running, factor), Totals<C>::empty()};
  if constexpr (has_statistics(kOutputs)) {
    sums.totals = warp_totals(mine.totals, [&] {
      return index_of_largest<kCapped>(row, count, static_cast<int>(mine.totals.index), inner, mine.totals.largest);
    });
  }
  constexpr int kWarps = kWarpsOf<kLogitThreads>;
  if (lane_index() == 0) of_warps[group * kWarps + warp_index() % kWarps] = sums;
}

// Sums over a row from those of its warps, by one warp.
template <Outputs kOutputs, class C>
__device__ inline RowSums<double> merge_warps(const RowSums<C> (&of_warps)[kWarpsOfRow],
                                              const LogitTransform& transform) {
  const RowSums<C>& mine = of_warps[lane_index()];
  const auto all = warp_sums<kOutputs>(mine.running, static_cast<C>(transform.factor));
  auto row = RowSums<double>::empty();
  row.running = {all.max, all.sum, all.weighted, all.squares};
  if constexpr (has_statistics(kOutputs)) {
    const auto totals = warp_totals(mine.totals, [&] { return mine.totals.index; });
    row.totals = {totals.total, totals.largest, totals.index};
  }
  return row;
}

// Sums over a row, in all threads of a block of kLogitThreads threads, which calls it once.
template <bool kCapped, Outputs kOutputs, class T, class C = compute_t<T>>
__device__ inline RowSums<double> row_sums(const T* row, int count, const LogitTransform& transform) {
  __shared__ RowSums<C> of_warps[kWarpsOfRow];
#pragma unroll 1
  for (int group = 0; group < kGroups; ++group) {
    sum_group<kCapped, kOutputs>(row, count, group, transform, of_warps);
  }
  __syncthreads();
  return merge_warps<kOutputs>(of_warps, transform);
}

// Elements [begin, end) of a row. `begin` is at a 16-byte boundary of the row that is written, at or before its start.
struct Slice {
  int begin, end;
};

template <class T>
__device__ inline Slice whole_row(const T* out, int count) {
  return {first_vector(out), count};
}

// Division of a row of the gradient among thread blocks.
struct RowDivision {
  int blocks;  // per row
  int chunks;  // per block

  // One block per row if there are many rows, otherwise enough blocks to fill a large GPU several times.
  template <class T>
  static RowDivision of(int64_t rows, int64_t length) {
    constexpr int64_t kEnoughBlocks = 2048;
    const auto ceiling = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t chunks = ceiling(length, kChunk<T>);
    if (rows >= kEnoughBlocks || rows == 0 || chunks <= 1) return {1, static_cast<int>(chunks)};
    const int64_t of_block = ceiling(rows * chunks, kEnoughBlocks);
    return {static_cast<int>(ceiling(chunks, of_block)), static_cast<int>(of_block)};
  }

  // Slice of one of the row's blocks. That of the last block ends with the row, which exceeds the whole chunks if it
  // begins between 16-byte boundaries.
  template <class T>
  __device__ Slice slice(const T* out, int count, int block) const {
    const Slice row = whole_row(out, count);
    const int begin = row.begin + block * chunks * kChunk<T>;
    return {begin, block + 1 == blocks ? row.end : begin + chunks * kChunk<T>};
  }
};

// Writes value_of(x) for the logits x of a slice to `out`, which may be the row itself.
template <class T, class ValueOf>
__device__ inline void map_row(const T* row, T* out, int count, const Slice& slice, const ValueOf& value_of) {
  const RowVectors<T> vectors(row, count, slice.begin);
  for (int chunk = slice.begin; chunk < slice.end; chunk += kChunk<T>) {
    const int mine = chunk + static_cast<int>(threadIdx.x) * kPerVector<T>;
    uint4 words[kLoads];
    if (vectors.loadable(chunk, chunk + kChunk<T> - kPerVector<T>)) {
      vectors.load(mine, kStride<T>, words);
    } else {
      vectors.gather(mine, kStride<T>, words);
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      Elements<T> elements;
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) elements.at[j] = narrow<T>(value_of(widened<T>(words[u], j)));
      store_vector(out, count, mine + u * kStride<T>, elements);
    }
  }
}

// Fills a slice of a row with `value`.
template <class T>
__device__ inline void fill_row(T* out, int count, const Slice& slice, T value) {
  Elements<T> elements;
#pragma unroll
  for (int j = 0; j < kPerVector<T>; ++j) elements.at[j] = value;
  const int first = slice.begin + static_cast<int>(threadIdx.x) * kPerVector<T>;
  for (int i = first; i < slice.end; i += kStride<T>) store_vector(out, count, i, elements);
}

// Writes a slice of the gradient with respect to logits [count] to `grad`, which may be `row` itself. The logits begin
// at column `first` of the vocabulary; `labels` are the row's, as columns of the whole vocabulary.
template <bool kCapped, bool kEntropy, class T, class Upstream, class C = compute_t<T>>
__device__ inline void write_row_gradient(const T* row, T* grad, int count, int64_t first, const Slice& slice,
                                          int64_t index, const int64_t* labels, const LogitTransform& transform,
                                          const RowGradients<Upstream>& gradients) {
  __shared__ RowGradient gradient;
  __shared__ OffLabelCoefficients coefficients;
  const C inner = static_cast<C>(transform.inner);
  // Double precision is slow on some GPUs, so each of these values is computed by one thread. Label k belongs to thread
  // kLogitThreads - 1 - k; RowLabels::kMost is kLogitThreads.
  const int k = kLogitThreads - 1 - static_cast<int>(threadIdx.x);
  const int64_t label = k < gradients.labels_per_row ? labels[k] : kIgnoredLabel;
  // Unsigned, since a direct call may give any `first`. Negative if the label is ignored.
  const auto at = static_cast<int64_t>(static_cast<uint64_t>(label) - static_cast<uint64_t>(first));
  const bool has_label = at >= 0 && at >= slice.begin && at < slice.end;
  C label_y = 0;
  if (has_label) label_y = y_of<kCapped>(widen(row[at]), inner);
  if (threadIdx.x == 0) {
    gradient = gradients.of(index, labels);
    coefficients = gradient.off_label(transform);
  }
  __syncthreads();
  C at_label = 0;
  if (has_label) {
    const double of_label = gradients.of_label(index, labels, label);
    at_label = static_cast<C>(gradient.at_label(label_y, of_label, transform));
  }
  const auto off_label = OffLabelGradient<ScalarVec<C>, kCapped, kEntropy>::make(transform, coefficients);
  map_row(row, grad, count, slice, [=](C x) { return off_label({y_of<kCapped>(x, inner)}).v; });
  __syncthreads();
  if (has_label) grad[at] = narrow<T>(at_label);
}

}  // namespace segkernel
