// Row kernels over a vector type V (csrc/simd). A row is processed in chunks of 4 KiB, which stay in the first-level
// cache when they are read a second time.
//
// Included by the files that are built for one instruction set: everything here is a template over V or always inlined,
// and calls only C functions of the standard library, so that no code for a newer instruction set gets a shared symbol.
#pragma once

#include <string.h>

#include <type_traits>

#include "../../core/inline.h"
#include "token_logprobs_kernels.h"
#include "token_logprobs_terms.h"

namespace segkernel {

// Logits in a chunk.
template <class T>
constexpr int64_t kChunk = 4096 / sizeof(T);

template <class T>
inline constexpr T kMinusInfinity = {};
template <>
inline constexpr double kMinusInfinity<double> = -INFINITY;
template <>
inline constexpr float kMinusInfinity<float> = -INFINITY;
template <>
inline constexpr bfloat16 kMinusInfinity<bfloat16> = {0xff80};
template <>
inline constexpr float16 kMinusInfinity<float16> = {0xfc00};

// Requests the cache lines of the next kBytes bytes.
template <int kBytes>
SK_INLINE void prefetch(const char* at) {
  for (int offset = 0; offset < kBytes; offset += 64) __builtin_prefetch(at + offset);
}

// Calls body(pointer, index) for every two vectors of values [count]. The last two are padded with -inf, the identity
// element of the maximum and of the sums.
template <class V, class T, class Body>
SK_INLINE void for_vectors(const T* values, int64_t count, const Body& body) {
  constexpr int64_t kStep = 2 * V::kLanes;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) body(values + i, i);
  if (i == count) return;
  T padded[kStep];
  for (int64_t k = 0; k < kStep; ++k) padded[k] = i + k < count ? values[i + k] : kMinusInfinity<T>;
  body(padded, i);
}

template <class V, class T>
SK_INLINE typename V::Scalar chunk_max(const T* values, int64_t count) {
  V first = V::broadcast(-INFINITY);
  V second = first;
  for_vectors<V>(values, count, [&](const T* at, int64_t) {
    V a, b;
    V::load2(at, a, b);
    first = maximum(first, a);
    second = maximum(second, b);
  });
  return reduce_max(maximum(first, second));
}

// Sums over values [count], relative to `reference`. Prefetches `next`, the chunk after this one, unless null.
template <class V, Outputs kOutputs, class T>
Running chunk_sums(const T* values, int64_t count, double reference, double factor, const char* next) {
  // -inf, the maximum of a chunk of -inf only, is no valid reference; any finite one gives the sum 0.
  const auto difference = Difference<V>::make(factor, reference == -INFINITY ? 0 : reference);
  TermSums<V, kOutputs> even, odd;
  for_vectors<V>(values, count, [&](const T* at, int64_t i) SK_INLINE_LAMBDA {
    V a, b;
    V::load2(at, a, b);
    if (next != nullptr) prefetch<2 * V::kLanes * sizeof(T)>(next + i * sizeof(T));
    even.add(a, difference);
    odd.add(b, difference);
  });
  return {reference, reduce_add(even.sum + odd.sum),
          has_entropies(kOutputs) ? reduce_add(even.weighted + odd.weighted) : 0,
          has_statistics(kOutputs) ? reduce_add(even.squares + odd.squares) : 0};
}

template <class V, Outputs kOutputs, class T>
SK_INLINE void accumulate_chunk(const T* values, int64_t count, double factor, const char* next, Running& running) {
  accumulate_part(
      running, factor, []() SK_INLINE_LAMBDA -> double { return -INFINITY; },
      [&]() SK_INLINE_LAMBDA -> double { return chunk_max<V>(values, count); },
      [&](double reference)
          SK_INLINE_LAMBDA { return chunk_sums<V, kOutputs>(values, count, reference, factor, next); });
}

// Adds the `count` y of a chunk to `totals`; `first` is the index of the first one in its row. `values` holds the
// logits (then y = x), or y as cap_chunk writes it for logits of type T: in the order of load2, padded to pairs of
// vectors.
template <class V, class T, class Value>
SK_INLINE void add_totals(const Value* values, int64_t count, int64_t first, Totals<double>& totals) {
  using Scalar = typename V::Scalar;
  constexpr int64_t kStep = 2 * V::kLanes;
  constexpr bool kPadded = !std::is_same_v<T, Value>;
  const int64_t stored = kPadded ? (count + kStep - 1) / kStep * kStep : count;
  V sum_a = V::broadcast(0), sum_b = sum_a;
  V max_a = V::broadcast(-INFINITY), max_b = max_a;
  Scalar pair[kStep];  // two vectors
  double last = 0;     // sum of the last, incomplete pair
  for_vectors<V>(values, stored, [&](const Value* at, int64_t i) SK_INLINE_LAMBDA {
    V a, b;
    V::load2(at, a, b);
    max_a = maximum(max_a, a);
    max_b = maximum(max_b, b);
    if (i + kStep <= count) {
      sum_a = sum_a + a;
      sum_b = sum_b + b;
      return;
    }
    V::store2(pair, a, b);
    for (int64_t k = 0; k < count - i; ++k) last += pair[V::template load2_position<T>(k)];
  });
  totals.total += reduce_add(sum_a + sum_b) + last;
  const Scalar largest = reduce_max(maximum(max_a, max_b));
  if (!(largest > totals.largest)) return;
  // Few chunks raise the maximum of their row, so the search for its index is rare.
  totals.largest = largest;
  totals.index = Totals<double>::kNone;
  for_vectors<V>(values, stored, [&](const Value* at, int64_t i) SK_INLINE_LAMBDA {
    V a, b;
    V::load2(at, a, b);
    if (totals.index != Totals<double>::kNone || reduce_max(maximum(a, b)) != largest) return;
    V::store2(pair, a, b);
    int64_t k = 0;
    while (k < kStep - 1 && pair[V::template load2_position<T>(k)] != largest) ++k;
    totals.index = first + i + k;
  });
}

// Writes y = tanh(inner * x) of logits [count], in the order of load2, padded with -inf to two whole vectors. Returns
// the padded count.
template <class V, class T>
SK_INLINE int64_t cap_chunk(const T* logits, int64_t count, double inner_factor, typename V::Scalar* capped) {
  constexpr int64_t kStep = 2 * V::kLanes;
  const V inner = V::broadcast(static_cast<typename V::Scalar>(inner_factor));
  V a, b;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    V::load2(logits + i, a, b);
    V::store2(capped + i, tanh(a * inner), tanh(b * inner));
  }
  if (i == count) return count;
  T padded[kStep], penalty[kStep];  // past the end 0 and -inf; the penalty is added after tanh, which is finite
  for (int64_t k = 0; k < kStep; ++k) {
    padded[k] = i + k < count ? logits[i + k] : T{};
    penalty[k] = i + k < count ? T{} : kMinusInfinity<T>;
  }
  V penalty_a, penalty_b;
  V::load2(padded, a, b);
  V::load2(penalty, penalty_a, penalty_b);
  V::store2(capped + i, tanh(a * inner) + penalty_a, tanh(b * inner) + penalty_b);
  return i + kStep;
}

template <class V, Outputs kOutputs, class T>
void accumulate_row(const T* logits, int64_t count, int64_t first, const LogitTransform& transform,
                    RowSums<double>& row) {
  static_assert(kChunk<T> % (2 * V::kLanes) == 0);
  for (int64_t begin = 0; begin < count; begin += kChunk<T>) {
    const T* chunk = logits + begin;
    const int64_t length = count - begin < kChunk<T> ? count - begin : kChunk<T>;
    if (transform.capped) {
      alignas(64) typename V::Scalar capped[kChunk<T>];
      const int64_t padded = cap_chunk<V>(chunk, length, transform.inner, capped);
      accumulate_chunk<V, kOutputs>(&capped[0], padded, transform.factor, nullptr, row.running);
      if constexpr (has_statistics(kOutputs)) add_totals<V, T>(&capped[0], length, first + begin, row.totals);
    } else {
      const char* next = count - begin >= 2 * kChunk<T> ? reinterpret_cast<const char*>(chunk + kChunk<T>) : nullptr;
      accumulate_chunk<V, kOutputs>(chunk, length, transform.factor, next, row.running);
      if constexpr (has_statistics(kOutputs)) add_totals<V, T>(chunk, length, first + begin, row.totals);
    }
  }
}

template <class V, bool kCapped, bool kEntropy, class T>
void gradient_row(const T* logits, T* grad, int64_t count, const LogitTransform& transform,
                  const OffLabelCoefficients& coefficients) {
  using Scalar = typename V::Scalar;
  constexpr int64_t kStep = 2 * V::kLanes;
  const V inner = V::broadcast(static_cast<Scalar>(transform.inner));
  const auto gradient_of = OffLabelGradient<V, kCapped, kEntropy>::make(transform, coefficients);
  const auto off_label = [&](V x) SK_INLINE_LAMBDA { return gradient_of(kCapped ? tanh(x * inner) : x); };
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    V a, b;
    V::load2(logits + i, a, b);
    V::store2(grad + i, off_label(a), off_label(b));
  }
  if (i == count) return;
  T padded[kStep];
  for (int64_t k = 0; k < kStep; ++k) padded[k] = i + k < count ? logits[i + k] : kMinusInfinity<T>;
  V a, b;
  V::load2(padded, a, b);
  V::store2(padded, off_label(a), off_label(b));
  memcpy(grad + i, padded, (count - i) * sizeof(T));
}

template <class V, class T>
void accumulate(const T* logits, int64_t count, int64_t first, const LogitTransform& transform, Outputs outputs,
                RowSums<double>& row) {
  switch (outputs) {
    case Outputs::logprobs:
      return accumulate_row<V, Outputs::logprobs>(logits, count, first, transform, row);
    case Outputs::entropies:
      return accumulate_row<V, Outputs::entropies>(logits, count, first, transform, row);
    case Outputs::statistics:
      return accumulate_row<V, Outputs::statistics>(logits, count, first, transform, row);
  }
}

template <class V, class T>
void gradient(const T* logits, T* grad, int64_t count, const LogitTransform& transform,
              const OffLabelCoefficients& coefficients) {
  const bool entropy = coefficients.linear != 0;
  if (transform.capped) {
    entropy ? gradient_row<V, true, true>(logits, grad, count, transform, coefficients)
            : gradient_row<V, true, false>(logits, grad, count, transform, coefficients);
  } else {
    entropy ? gradient_row<V, false, true>(logits, grad, count, transform, coefficients)
            : gradient_row<V, false, false>(logits, grad, count, transform, coefficients);
  }
}

template <class V, class T>
double cap(const T* logit, double inner) {
  typename V::Scalar capped[2 * V::kLanes];
  cap_chunk<V>(logit, 1, inner, capped);
  return capped[0];
}

template <class V, class T>
constexpr RowKernels<T> kRowKernels = {accumulate<V, T>, cap<V, T>, gradient<V, T>};

template <class V>
constexpr LogprobKernels kLogprobKernels = {kRowKernels<V, float>, kRowKernels<V, bfloat16>, kRowKernels<V, float16>};

}  // namespace segkernel
