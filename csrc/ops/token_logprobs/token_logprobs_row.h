// The loops over one row of logits, written once over a vector type V (csrc/simd).
//
// Included by the files that are built for one instruction set: everything here is a template over V, or inlined, and
// calls nothing of the standard library but C functions.
#pragma once

#include <string.h>

#include "../../simd/inline.h"
#include "token_logprobs_kernels.h"
#include "token_logprobs_terms.h"

namespace segkernel {

// A row is worked through in blocks that stay in the first-level cache while they are read twice.
constexpr int64_t kBlockBytes = 4096;
template <class T>
constexpr int64_t kBlock = kBlockBytes / sizeof(T);

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

// Calls body(pointer, index) for every two vectors of values [count]; the last of them are padded with -inf, which
// contributes nothing to any sum.
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
SK_INLINE typename V::Scalar block_max(const T* values, int64_t count) {
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

// The sums over values [count], relative to `reference`. `next` is what will be read after this block: the arithmetic
// here is time enough to fetch it.
template <class V, bool kEntropy, class T>
Running block_sums(const T* values, int64_t count, double reference, double factor, const char* next) {
  // Where there is nothing but -inf there is no maximum to be relative to.
  const auto difference = Difference<V>::make(factor, reference == -INFINITY ? 0 : reference);
  TermSums<V, kEntropy> even, odd;
  for_vectors<V>(values, count, [&](const T* at, int64_t i) SK_INLINE_LAMBDA {
    V a, b;
    V::load2(at, a, b);
    if (next != nullptr) prefetch<2 * V::kLanes * sizeof(T)>(next + i * sizeof(T));
    even.add(a, difference);
    odd.add(b, difference);
  });
  return {reference, reduce_add(even.sum + odd.sum), kEntropy ? reduce_add(even.weighted + odd.weighted) : 0};
}

template <class V, bool kEntropy, class T>
SK_INLINE void accumulate_block(const T* values, int64_t count, double factor, const char* next, Running& running) {
  accumulate_part(
      running, factor, [&]() SK_INLINE_LAMBDA -> double { return block_max<V>(values, count); },
      [&](double reference)
          SK_INLINE_LAMBDA { return block_sums<V, kEntropy>(values, count, reference, factor, next); });
}

// Writes tanh(inner * x) of the logits [count], padded with -inf to whole steps, in the order that load2 gives them.
// Returns the padded count.
template <class V, class T>
SK_INLINE int64_t cap_block(const T* logits, int64_t count, double inner_factor, typename V::Scalar* capped) {
  constexpr int64_t kStep = 2 * V::kLanes;
  const V inner = V::broadcast(static_cast<typename V::Scalar>(inner_factor));
  V a, b;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    V::load2(logits + i, a, b);
    V::store2(capped + i, tanh(a * inner), tanh(b * inner));
  }
  if (i == count) return count;
  T padded[kStep], penalty[kStep];  // 0 and -inf past the end: there, no logit is what is to be capped
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

template <class V, bool kEntropy, class T>
void accumulate_row(const T* logits, int64_t count, const LogitTransform& transform, Running& running) {
  static_assert(kBlock<T> % (2 * V::kLanes) == 0);
  for (int64_t begin = 0; begin < count; begin += kBlock<T>) {
    const T* block = logits + begin;
    const int64_t length = count - begin < kBlock<T> ? count - begin : kBlock<T>;
    if (transform.capped) {
      alignas(64) typename V::Scalar capped[kBlock<T>];
      const int64_t padded = cap_block<V>(block, length, transform.inner, capped);
      accumulate_block<V, kEntropy>(&capped[0], padded, transform.factor, nullptr, running);
    } else {
      const char* next = count - begin >= 2 * kBlock<T> ? reinterpret_cast<const char*>(block + kBlock<T>) : nullptr;
      accumulate_block<V, kEntropy>(block, length, transform.factor, next, running);
    }
  }
}

template <class V, bool kCapped, bool kEntropy, class T>
void gradient_row(const T* logits, T* grad, int64_t count, const LogitTransform& transform,
                  const GradientTerms& terms) {
  using Scalar = typename V::Scalar;
  constexpr int64_t kStep = 2 * V::kLanes;
  const V inner = V::broadcast(static_cast<Scalar>(transform.inner));
  const auto gradient_of = OffLabel<V, kCapped, kEntropy>::make(transform, terms);
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
void accumulate(const T* logits, int64_t count, const LogitTransform& transform, bool entropy, Running& running) {
  if (entropy) {
    accumulate_row<V, true>(logits, count, transform, running);
  } else {
    accumulate_row<V, false>(logits, count, transform, running);
  }
}

template <class V, class T>
void gradient(const T* logits, T* grad, int64_t count, const LogitTransform& transform, const GradientTerms& terms) {
  const bool entropy = terms.linear != 0;
  if (transform.capped) {
    entropy ? gradient_row<V, true, true>(logits, grad, count, transform, terms)
            : gradient_row<V, true, false>(logits, grad, count, transform, terms);
  } else {
    entropy ? gradient_row<V, false, true>(logits, grad, count, transform, terms)
            : gradient_row<V, false, false>(logits, grad, count, transform, terms);
  }
}

template <class V, class T>
double cap(const T* logit, double inner) {
  typename V::Scalar capped[2 * V::kLanes];
  cap_block<V>(logit, 1, inner, capped);
  return capped[0];
}

template <class V, class T>
constexpr RowKernels<T> kRowKernels = {accumulate<V, T>, cap<V, T>, gradient<V, T>};

template <class V>
constexpr LogprobKernels kLogprobKernels = {kRowKernels<V, float>, kRowKernels<V, bfloat16>, kRowKernels<V, float16>};

}  // namespace segkernel
