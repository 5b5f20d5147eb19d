// Loops over two rows of logits, with the loads, warps and merges of token_logprobs_device.cuh.
//
// The chunks of a pair of rows belong to kPairGroups groups of threads in turn. A block of kLogitThreads threads is
// each group in turn; a block of kPairGroups times as many threads is all groups at once. The bits are the same.
#pragma once

#include "../token_logprobs/token_logprobs_device.cuh"
#include "token_divergences_terms.h"

namespace segkernel {

// Loads of 16 bytes per thread and row, issued before the first result is used.
constexpr int kPairLoads = kLoads / 2;
// Occupancy: twice the registers of token_logprobs, for twice the sums. 2 groups keep up to 32 KB of loads in flight.
constexpr int kPairGroups = kBlocksPerMultiprocessor / 2;
constexpr int kWarpsOfPair = kPairGroups * kWarpsOf<kLogitThreads>;
template <class T>
constexpr int kPairChunk = kPairLoads * kStride<T>;

// Calls body(words, other words, is_whole, first index) for the calling thread's vectors of both rows, of every
// kStep-th chunk of a slice. Elements outside of the rows are zeros; only a chunk that is not whole has any.
template <int kStep, class T, class Body>
__device__ inline void for_pair_chunks(const T* row, const T* other, int count, const Slice& slice, const Body& body) {
  const RowVectors<T> vectors(row, count, slice.begin), others(other, count, slice.begin);
  for (int chunk = slice.begin; chunk < slice.end; chunk += kStep * kPairChunk<T>) {
    const int mine = chunk + static_cast<int>(threadIdx.x) % kLogitThreads * kPerVector<T>;
    const int last = chunk + kPairChunk<T> - kPerVector<T>;
    uint4 words[kPairLoads], other_words[kPairLoads];
    const bool loadable = vectors.loadable(chunk, last) && others.loadable(chunk, last);
    if (loadable) {
      vectors.load(mine, kStride<T>, words);
      others.load(mine, kStride<T>, other_words);
    } else {
      vectors.gather(mine, kStride<T>, words);
      others.gather(mine, kStride<T>, other_words);
    }
    body(words, other_words, chunk >= 0 && last + kPerVector<T> <= count, mine);
  }
}

// Merges the elements of kPairLoads vectors of both rows into `running`: y(x, u, j) for logit x, element j of vector u.
template <bool kCross, bool kExact, class T, class C, class Y>
__device__ inline void accumulate_vector_pairs(const uint4 (&words)[kPairLoads], const uint4 (&other_words)[kPairLoads],
                                               C factor, const Y& y, PairSums<C>& running) {
  const auto max_of = [&](const uint4(&of)[kPairLoads], auto vectors) {
    C max = -INFINITY;
#pragma unroll
    for (int u = 0; u < vectors; ++u) {
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) max = larger(max, y(widened<T>(of[u], j), u, j));
    }
    return max;
  };
  const auto sums = [&](C reference, C other_reference) {
    // A part of -inf only has no finite maximum as its reference.
    using V = ScalarVec<C>;
    const auto first = Difference<V>::make(factor, reference == -INFINITY ? 0 : reference);
    const auto second = Difference<V>::make(factor, other_reference == -INFINITY ? 0 : other_reference);
    PairTerms<V, kCross, kExact> terms;
#pragma unroll
    for (int u = 0; u < kPairLoads; ++u) {
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) {
        terms.add({y(widened<T>(words[u], j), u, j)}, {y(widened<T>(other_words[u], j), u, j)}, first, second);
      }
    }
    return PairSums<C>{{reference, terms.sum.v, terms.weighted.v, 0},
                       {other_reference, terms.other_sum.v, terms.other_weighted.v, 0},
                       terms.cross.v};
  };
  const auto maxima_of = [&](auto vectors) { return Pair<C>{max_of(words, vectors), max_of(other_words, vectors)}; };
  const auto guesses = [&] { return maxima_of(std::integral_constant<int, 1>{}); };
  const auto maxima = [&] { return maxima_of(std::integral_constant<int, kPairLoads>{}); };
  accumulate_pair_part(running, factor, guesses, maxima, sums);
}

// Calls body(first index, sums of its warp) for the groups of the calling thread. A block of kThreads threads.
template <int kThreads, class T, class Body>
__device__ inline void for_pair_groups(const Body& body) {
  const int first = static_cast<int>(threadIdx.x) / kLogitThreads;
#pragma unroll 1
  for (int group = first; group < kPairGroups; group += kThreads / kLogitThreads) {
    body(group * kPairChunk<T>, group * kWarpsOf<kLogitThreads> + warp_index() % kWarpsOf<kLogitThreads>);
  }
}

template <class C>
__device__ inline PairSums<C> warp_pair_sums(const PairSums<C>& mine, C factor) {
  const auto max = [](C a, C b) { return larger(a, b); };
  const auto add = [](C a, C b) { return a + b; };
  const C first_max = warp_reduce(mine.first.max, max), second_max = warp_reduce(mine.second.max, max);
  const PairSums<C> relative = mine.relative_to(first_max, second_max, factor);
  return {{first_max, warp_reduce(relative.first.sum, add), warp_reduce(relative.first.weighted, add), 0},
          {second_max, warp_reduce(relative.second.sum, add), warp_reduce(relative.second.weighted, add), 0},
          warp_reduce(relative.cross, add)};
}

// Sums over both rows, in all threads of a block. The last chunk, which is padded with -inf, is always exact.
template <int kThreads, bool kCapped, bool kCross, bool kExact, class T, class C = compute_t<T>>
__device__ inline PairSums<double> read_row_pair(const T* row, const T* other, int count,
                                                 const LogitTransform& transform) {
  __shared__ PairSums<C> of_warps[kWarpsOfPair];
  const C factor = static_cast<C>(transform.factor), inner = static_cast<C>(transform.inner);
  for_pair_groups<kThreads, T>([&](int begin, int warp) {
    auto mine = PairSums<C>::empty();
    const auto add_chunk = [&](const auto& words, const auto& others, bool is_whole, int first) {
      if (is_whole) {
        const auto y = [=](C x, int, int) { return y_of<kCapped>(x, inner); };
        accumulate_vector_pairs<kCross, kExact, T>(words, others, factor, y, mine);
      } else {
        const auto y = [=](C x, int u, int j) {
          return first + u * kStride<T> + j < count ? y_of<kCapped>(x, inner) : C{-INFINITY};
        };
        accumulate_vector_pairs<kCross, true, T>(words, others, factor, y, mine);
      }
    };
    for_pair_chunks<kPairGroups>(row, other, count, {begin, count}, add_chunk);
    const PairSums<C> of_warp = warp_pair_sums(mine, factor);
    if (lane_index() == 0) of_warps[warp] = of_warp;
  });
  __syncthreads();
  const auto all = warp_pair_sums(lane_index() < kWarpsOfPair ? of_warps[lane_index()] : PairSums<C>::empty(), factor);
  return {{all.first.max, all.first.sum, all.first.weighted, 0},
          {all.second.max, all.second.sum, all.second.weighted, 0},
          all.cross};
}

// The same, also for rows with -inf, which are read a second time. A block calls it once.
template <int kThreads, bool kCapped, bool kCross, class T>
__device__ inline PairSums<double> row_pair_sums(const T* row, const T* other, int count,
                                                 const LogitTransform& transform) {
  const auto sums = read_row_pair<kThreads, kCapped, kCross, false>(row, other, count, transform);
  if constexpr (kCross) {
    if (!(sums.cross - sums.cross == 0)) {
      return read_row_pair<kThreads, kCapped, true, true>(row, other, count, transform);
    }
  }
  return sums;
}

// The second pass of js and tv over both rows, in all threads of a block, which calls it once.
template <int kThreads, bool kCapped, Divergence kKind, class T, class C = compute_t<T>>
__device__ inline ShapeSums row_shape_sums(const T* row, const T* other, int count, const LogitTransform& transform,
                                           double beta, const Normalizer& of_row, const Normalizer& of_other) {
  using V = ScalarVec<C>;
  __shared__ Pair<C> of_warps[kWarpsOfPair];
  const auto pair = NormalizedPair<V>::make(transform.factor, beta, of_row, of_other);
  const C inner = static_cast<C>(transform.inner);
  const auto add = [](C a, C b) { return a + b; };
  for_pair_groups<kThreads, T>([&](int begin, int warp) {
    Pair<C> mine{0, 0};
    const auto add_chunk = [&](const auto& words, const auto& others, bool, int first) {
      ShapeTerms<V, kKind> terms;
#pragma unroll
      for (int u = 0; u < kPairLoads; ++u) {
#pragma unroll
        for (int j = 0; j < kPerVector<T>; ++j) {
          if (first + u * kStride<T> + j >= count) continue;
          terms.add({y_of<kCapped>(widened<T>(words[u], j), inner)}, {y_of<kCapped>(widened<T>(others[u], j), inner)},
                    pair);
        }
      }
      mine.first += terms.first.v;
      mine.second += terms.second.v;
    };
    for_pair_chunks<kPairGroups>(row, other, count, {begin, count}, add_chunk);
    const Pair<C> of_warp{warp_reduce(mine.first, add), warp_reduce(mine.second, add)};
    if (lane_index() == 0) of_warps[warp] = of_warp;
  });
  __syncthreads();
  const Pair<C> of_lane = lane_index() < kWarpsOfPair ? of_warps[lane_index()] : Pair<C>{0, 0};
  return {warp_reduce(of_lane.first, add), warp_reduce(of_lane.second, add)};
}

// Writes a slice of the gradient with respect to a row of logits to `grad`, which may be the row itself. `label` is -1
// if its log-probability has no gradient.
template <bool kCapped, Divergence kKind, class T, class C = compute_t<T>>
__device__ inline void write_pair_gradient(const T* row, const T* other, T* grad, int count, const Slice& slice,
                                           int label, double beta, const LogitTransform& transform,
                                           const PairUpstream& upstream, const PairState& state) {
  __shared__ PairCoefficients coefficients;
  const C inner = static_cast<C>(transform.inner);
  // Double precision is slow on some GPUs, so each of these values is computed by one thread.
  const bool in_slice = label >= 0 && label >= slice.begin && label < slice.end;
  const bool has_label = in_slice && threadIdx.x == kLogitThreads - 1;
  C label_x = 0, label_y = 0;
  if (has_label) {
    label_x = y_of<kCapped>(widen(row[label]), inner);
    label_y = y_of<kCapped>(widen(other[label]), inner);
  }
  if (threadIdx.x == 0) coefficients = upstream.coefficients(kKind, beta, transform, state);
  __syncthreads();
  const C at_label = has_label ? static_cast<C>(gradient_at_label<kCapped, kKind>(label_x, label_y, upstream.logprob,
                                                                                  transform, coefficients))
                               : C{0};
  using V = ScalarVec<C>;
  const auto gradient = PairGradient<V, kCapped, kKind>::make(transform, coefficients);
  for_pair_chunks<1>(row, other, count, slice, [&](const auto& words, const auto& others, bool, int first) {
#pragma unroll
    for (int u = 0; u < kPairLoads; ++u) {
      Elements<T> elements;
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) {
        const V x{y_of<kCapped>(widened<T>(words[u], j), inner)};
        const V y{y_of<kCapped>(widened<T>(others[u], j), inner)};
        elements.at[j] = narrow<T>(gradient(x, y).v);
      }
      store_vector(grad, count, first + u * kStride<T>, elements);
    }
  });
  __syncthreads();
  if (has_label) grad[label] = narrow<T>(at_label);
}

}  // namespace segkernel
