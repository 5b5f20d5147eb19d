// Interleaved<V>: two vectors with the interface of one, for kernels with long chains of dependent operations. A
// processor reorders instructions within a limited window only; two chains one after the other leave it waiting for
// most of the first, and two interleaved chains do not.
#pragma once

#include "../core/inline.h"

namespace segkernel {

template <class V>
struct Interleaved {
  using Scalar = typename V::Scalar;

  V a, b;

  static SK_INLINE Interleaved broadcast(Scalar x) { return {V::broadcast(x), V::broadcast(x)}; }
};

template <class V>
SK_INLINE Interleaved<V> operator+(Interleaved<V> x, Interleaved<V> y) {
  return {x.a + y.a, x.b + y.b};
}
template <class V>
SK_INLINE Interleaved<V> operator-(Interleaved<V> x, Interleaved<V> y) {
  return {x.a - y.a, x.b - y.b};
}
template <class V>
SK_INLINE Interleaved<V> operator*(Interleaved<V> x, Interleaved<V> y) {
  return {x.a * y.a, x.b * y.b};
}
template <class V>
SK_INLINE Interleaved<V> fma(Interleaved<V> x, Interleaved<V> y, Interleaved<V> z) {
  return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)};
}
template <class V>
SK_INLINE Interleaved<V> maximum(Interleaved<V> x, Interleaved<V> y) {
  return {maximum(x.a, y.a), maximum(x.b, y.b)};
}
template <class V>
SK_INLINE Interleaved<V> exp2_in_range(Interleaved<V> t) {
  return {exp2_in_range(t.a), exp2_in_range(t.b)};
}
template <class V>
SK_INLINE Interleaved<V> log2(Interleaved<V> x) {
  return {log2(x.a), log2(x.b)};
}
template <class V>
SK_INLINE typename V::Scalar reduce_add(Interleaved<V> x) {
  return reduce_add(x.a + x.b);
}

}  // namespace segkernel
