// Row kernels over a vector type V (csrc/simd), in chunks of both rows as in token_logprobs_row.h. As there, everything
// is a template over V or always inlined.
#pragma once

#include <string.h>

#include <type_traits>

#include "../../simd/interleaved.h"
#include "../token_logprobs/token_logprobs_row.h"
#include "token_divergences_kernels.h"
#include "token_divergences_terms.h"

namespace segkernel {

// Calls body(pointer, other pointer, index) for every two vectors of both rows. The last two are padded with -inf.
template <class V, class T, class Body>
SK_INLINE void for_vector_pairs(const T* values, const T* others, int64_t count, const Body& body) {
  constexpr int64_t kStep = 2 * V::kLanes;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) body(values + i, others + i, i);
  if (i == count) return;
  T padded[kStep], other_padded[kStep];
  for (int64_t k = 0; k < kStep; ++k) {
    padded[k] = i + k < count ? values[i + k] : kMinusInfinity<T>;
    other_padded[k] = i + k < count ? others[i + k] : kMinusInfinity<T>;
  }
  body(padded, other_padded, i);
}

// Calls body(chunk, other chunk, count, next) for the chunks of both rows. Under a softcap these are arrays of y in the
// compute type, padded to pairs of vectors with -inf. `next` is whether the next chunks are whole.
template <class V, class T, class Body>
SK_INLINE void for_chunk_pairs(const T* logits, const T* others, int64_t count, const LogitTransform& transform,
                               const Body& body) {
  for (int64_t begin = 0; begin < count; begin += kChunk<T>) {
    const int64_t length = count - begin < kChunk<T> ? count - begin : kChunk<T>;
    if (transform.capped) {
      alignas(64) typename V::Scalar capped[kChunk<T>], other_capped[kChunk<T>];
      const int64_t padded = cap_chunk<V>(logits + begin, length, transform.inner, capped);
      cap_chunk<V>(others + begin, length, transform.inner, other_capped);
      body(&capped[0], &other_capped[0], padded, false);
    } else {
      body(logits + begin, others + begin, length, count - begin >= 2 * kChunk<T>);
    }
  }
}

template <class V, bool kCross, bool kExact, class T>
PairSums<double> sum_chunk_pair(const T* values, const T* others, int64_t count, Pair<double> reference, double factor,
                                bool prefetches_next) {
  // -inf, the maximum of a chunk of -inf only, is no valid reference; any finite one gives the sum 0.
  const auto first = Difference<V>::make(factor, reference.first == -INFINITY ? 0 : reference.first);
  const auto second = Difference<V>::make(factor, reference.second == -INFINITY ? 0 : reference.second);
  const char* next = reinterpret_cast<const char*>(values + kChunk<T>);
  const char* other_next = reinterpret_cast<const char*>(others + kChunk<T>);
  PairTerms<V, kCross, kExact> even, odd;
  for_vector_pairs<V>(values, others, count, [&](const T* at, const T* other_at, int64_t i) SK_INLINE_LAMBDA {
    V a, b, other_a, other_b;
    V::load2(at, a, b);
    V::load2(other_at, other_a, other_b);
    if (prefetches_next) {
      prefetch<2 * V::kLanes * sizeof(T)>(next + i * sizeof(T));
      prefetch<2 * V::kLanes * sizeof(T)>(other_next + i * sizeof(T));
    }
    even.add(a, other_a, first, second);
    odd.add(b, other_b, first, second);
  });
  return {{reference.first, reduce_add(even.sum + odd.sum), reduce_add(even.weighted + odd.weighted), 0},
          {reference.second, reduce_add(even.other_sum + odd.other_sum),
           reduce_add(even.other_weighted + odd.other_weighted), 0},
          kCross ? reduce_add(even.cross + odd.cross) : 0};
}

template <class V, bool kCross, class T>
void accumulate_pair_row(const T* first, const T* second, int64_t count, const LogitTransform& transform,
                         PairSums<double>& running) {
  static_assert(kChunk<T> % (2 * V::kLanes) == 0);
  const double factor = transform.factor;
  for_chunk_pairs<V>(first, second, count, transform, [&](auto* values, auto* others, int64_t length, bool next) {
    accumulate_pair_part(
        running, factor, []() -> Pair<double> { return {-INFINITY, -INFINITY}; },
        [&]() -> Pair<double> { return {chunk_max<V>(values, length), chunk_max<V>(others, length)}; },
        [&](double reference, double other_reference) {
          const Pair<double> references{reference, other_reference};
          const auto part = sum_chunk_pair<V, kCross, false>(values, others, length, references, factor, next);
          if (!kCross || part.cross - part.cross == 0) return part;
          return sum_chunk_pair<V, kCross, true>(values, others, length, references, factor, next);
        });
  });
}

template <class V, Divergence kKind, class T>
ShapeSums shape_row(const T* logits, const T* others, int64_t count, const LogitTransform& transform, double beta,
                    const Normalizer& of_row, const Normalizer& of_other) {
  // Terms of js are long chains of operations, an exponential and a logarithm.
  using W = std::conditional_t<kKind == Divergence::js, Interleaved<V>, V>;
  const auto pair = NormalizedPair<W>::make(transform.factor, beta, of_row, of_other);
  ShapeSums sums{0, 0};
  for_chunk_pairs<V>(logits, others, count, transform, [&](auto* chunk, auto* other_chunk, int64_t length, bool) {
    ShapeTerms<W, kKind> terms;
    for_vector_pairs<V>(chunk, other_chunk, length, [&](auto* at, auto* other_at, int64_t) SK_INLINE_LAMBDA {
      V a, b, other_a, other_b;
      V::load2(at, a, b);
      V::load2(other_at, other_a, other_b);
      if constexpr (kKind == Divergence::js) {
        terms.add(W{a, b}, W{other_a, other_b}, pair);
      } else {
        terms.add(a, other_a, pair);
        terms.add(b, other_b, pair);
      }
    });
    sums.first += reduce_add(terms.first);
    sums.second += reduce_add(terms.second);
  });
  return sums;
}

template <class V, bool kCapped, Divergence kKind, class T>
void pair_gradient_row(const T* logits, const T* others, T* grad, int64_t count, const LogitTransform& transform,
                       const PairCoefficients& coefficients) {
  const V inner = broadcast_as<V>(transform.inner);
  const auto gradient_of = PairGradient<V, kCapped, kKind>::make(transform, coefficients);
  const auto at = [&](V x, V y) SK_INLINE_LAMBDA {
    return kCapped ? gradient_of(tanh(x * inner), tanh(y * inner)) : gradient_of(x, y);
  };
  for_vector_pairs<V>(logits, others, count, [&](const T* from, const T* other, int64_t i) SK_INLINE_LAMBDA {
    constexpr int64_t kStep = 2 * V::kLanes;
    V a, b, other_a, other_b;
    V::load2(from, a, b);
    V::load2(other, other_a, other_b);
    if (i + kStep <= count) {
      V::store2(grad + i, at(a, other_a), at(b, other_b));
      return;
    }
    T last[kStep];
    V::store2(last, at(a, other_a), at(b, other_b));
    memcpy(grad + i, last, (count - i) * sizeof(T));
  });
}

template <class V, class T>
void accumulate_pair(const T* first, const T* second, int64_t count, const LogitTransform& transform, bool cross,
                     PairSums<double>& running) {
  cross ? accumulate_pair_row<V, true>(first, second, count, transform, running)
        : accumulate_pair_row<V, false>(first, second, count, transform, running);
}

template <class V, class T>
ShapeSums shape(Divergence kind, const T* logits, const T* others, int64_t count, const LogitTransform& transform,
                double beta, const Normalizer& of_row, const Normalizer& of_other) {
  return kind == Divergence::js
             ? shape_row<V, Divergence::js>(logits, others, count, transform, beta, of_row, of_other)
             : shape_row<V, Divergence::tv>(logits, others, count, transform, beta, of_row, of_other);
}

template <class V, class T>
void pair_gradient(Divergence kind, const T* logits, const T* others, T* grad, int64_t count,
                   const LogitTransform& transform, const PairCoefficients& coefficients) {
  dispatch_divergence(kind, [&]<Divergence kKind>() SK_INLINE_LAMBDA {
    transform.capped ? pair_gradient_row<V, true, kKind>(logits, others, grad, count, transform, coefficients)
                     : pair_gradient_row<V, false, kKind>(logits, others, grad, count, transform, coefficients);
  });
}

template <class V, class T>
constexpr PairKernels<T> kPairKernels = {accumulate_pair<V, T>, shape<V, T>, pair_gradient<V, T>};

template <class V>
constexpr DivergenceKernels kDivergenceKernels = {kPairKernels<V, float>, kPairKernels<V, bfloat16>,
                                                  kPairKernels<V, float16>};

}  // namespace segkernel
