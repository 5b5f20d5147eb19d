// exp2, log2 and tanh over Vec, and exp2 and log2 over Interleaved<Vec>. Their errors are measured over all floats by
// tests/ops/cpp/exp2_test.cpp.
#pragma once

#include "interleaved.h"
#include "vec.h"

namespace segkernel {

// (2^f - 1) / f on [0, 1]: the minimax polynomial for the relative error of 2^f.
template <class V>
SK_INLINE V exp2m1_over_f(V f) {
  V q = V::broadcast(0x1.e97512p-10f);
  q = fma(q, f, V::broadcast(0x1.27784ap-7f));
  q = fma(q, f, V::broadcast(0x1.c91ceap-5f));
  q = fma(q, f, V::broadcast(0x1.ebdb56p-3f));
  return fma(q, f, V::broadcast(0x1.62e4bap-1f));
}

SK_INLINE Interleaved<Vec> fraction(Interleaved<Vec> t) { return {fraction(t.a), fraction(t.b)}; }
SK_INLINE Interleaved<Vec> scale(Interleaved<Vec> p, Interleaved<Vec> t) { return {scale(p.a, t.a), scale(p.b, t.b)}; }
template <class V>
SK_INLINE V exp2_by_steps(V t) {
  const V f = fraction(t);
  return scale(fma(exp2m1_over_f(f), f, V::broadcast(1)), t);
}

// 2^t = 2^f * 2^floor(t) with f = t - floor(t), within 3.1 ulp, for kLowest <= t < 128; NaN for NaN. Results below
// 2^-126 are flushed to 0, except under AVX-512: there they are subnormal.
SK_INLINE Vec exp2_in_range(Vec t) { return exp2_by_steps(t); }
SK_INLINE Interleaved<Vec> exp2_in_range(Interleaved<Vec> t) { return exp2_by_steps(t); }

// The same for all t >= kLowest: above 2^127 results saturate, except under AVX-512: there they become infinite.
SK_INLINE Vec exp2(Vec t) {
#if !defined(__AVX512F__)
  t = minimum(Vec::broadcast(127), t);
#endif
  return exp2_in_range(t);
}

// log2(x) = whole + log2(1 + w).
template <class V>
struct Log2Parts {
  V whole, w;
};

#if defined(__AVX512F__)

// x = m * 2^e with 3/4 <= m < 3/2. The 4 leading bits of m's fraction look up 1 / c and log2(c) with w = m / c - 1 in
// [-1/32, 1/16), and whole = e + log2(c). c is 1 for m in [31/32, 17/16), which keeps the relative error small near
// x = 1; elsewhere c is chosen so that log2(c) is within 2^-36 of a float. vgetexp gives e - 1 for m < 1, the second
// half of the tables, so kLog2 is log2(c) + 1 there.
SK_INLINE Log2Parts<Vec> log2_parts(Vec x) {
  alignas(64) static constexpr float kInverse[16] = {0x1.000000p+0f, 0x1.d41bfap-1f, 0x1.bacf3cp-1f, 0x1.a41b8ap-1f,
                                                     0x1.8f9758p-1f, 0x1.7d0532p-1f, 0x1.6c1f36p-1f, 0x1.5c9c3cp-1f,
                                                     0x1.4e5cc8p+0f, 0x1.4145d6p+0f, 0x1.3512b4p+0f, 0x1.29db34p+0f,
                                                     0x1.1f5cd8p+0f, 0x1.15ba94p+0f, 0x1.0c950ep+0f, 0x1.000000p+0f};
  alignas(64) static constexpr float kLog2[16] = {0x0.000000p+0f, 0x1.08cd9ep-3f, 0x1.acf81cp-3f, 0x1.243bf8p-2f,
                                                  0x1.6e33b0p-2f, 0x1.b481b0p-2f, 0x1.f78608p-2f, 0x1.1beb2ep-1f,
                                                  0x1.3abe08p-1f, 0x1.583d9ap-1f, 0x1.74d618p-1f, 0x1.902460p-1f,
                                                  0x1.aaa284p-1f, 0x1.c3d2b4p-1f, 0x1.dc8f2ep-1f, 0x1.000000p+0f};
  const __m512i index = _mm512_srli_epi32(_mm512_castps_si512(x.v), 19);  // in the low 4 bits, which select
  const Vec inverse = {_mm512_permutexvar_ps(index, _mm512_load_ps(kInverse))};
  const Vec log2_c = {_mm512_permutexvar_ps(index, _mm512_load_ps(kLog2))};
  const Vec m = {_mm512_getmant_ps(x.v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src)};
  return {Vec{_mm512_getexp_ps(x.v)} + log2_c, fma(m, inverse, Vec::broadcast(-1))};
}

// The minimax polynomial of log2(1 + w) / w on [-1/32, 1/16] for the relative error, which is below 1.2e-7.
template <class V>
SK_INLINE V log2_of_parts(const Log2Parts<V>& of) {
  V q = V::broadcast(-0x1.600776p-2f);
  q = fma(q, of.w, V::broadcast(0x1.eca638p-2f));
  q = fma(q, of.w, V::broadcast(-0x1.715652p-1f));
  q = fma(q, of.w, V::broadcast(0x1.715476p+0f));
  return fma(q, of.w, of.whole);
}

#else

// x = (1 + w) * 2^whole with sqrt(1/2) <= 1 + w < sqrt(2).
SK_INLINE Log2Parts<Vec> log2_parts(Vec x) {
  constexpr uint32_t kRootHalf = 0x3f3504f3u, kOne = 0x3f800000u, kExponent = 0xff800000u;
  const Vec::Words offset = x.bits() - kRootHalf;
  const auto exponent = reinterpret_cast<Vec::Integers>(offset) >> 23;
  const Vec power = Vec::of_bits(kOne - (offset & kExponent));  // 2^-exponent
  return {{__builtin_convertvector(exponent, Vec::Floats)}, fma(x, power, Vec::broadcast(-1))};
}

// The minimax polynomial of log2(1 + w) / w for the relative error.
template <class V>
SK_INLINE V log2_of_parts(const Log2Parts<V>& of) {
  V q = V::broadcast(0x1.01b6d2p-3f);
  q = fma(q, of.w, V::broadcast(-0x1.a87d08p-3f));
  q = fma(q, of.w, V::broadcast(0x1.b9c91cp-3f));
  q = fma(q, of.w, V::broadcast(-0x1.e95be8p-3f));
  q = fma(q, of.w, V::broadcast(0x1.26d384p-2f));
  q = fma(q, of.w, V::broadcast(-0x1.715c4ep-2f));
  q = fma(q, of.w, V::broadcast(0x1.ec73d6p-2f));
  q = fma(q, of.w, V::broadcast(-0x1.715470p-1f));
  q = fma(q, of.w, V::broadcast(0x1.715476p+0f));
  return fma(q, of.w, of.whole);
}

#endif

SK_INLINE Log2Parts<Interleaved<Vec>> log2_parts(Interleaved<Vec> x) {
  const Log2Parts<Vec> a = log2_parts(x.a), b = log2_parts(x.b);
  return {{a.whole, b.whole}, {a.w, b.w}};
}

// log2(x) within 2.3 ulp (3 under AVX-512) for 2^-126 <= x <= 2^126; NaN for NaN.
SK_INLINE Vec log2(Vec x) { return log2_of_parts(log2_parts(x)); }
SK_INLINE Interleaved<Vec> log2(Interleaved<Vec> x) { return log2_of_parts(log2_parts(x)); }

// tanh(x) = (e^2x - 1) / (e^2x + 1), where e^2x - 1 is formed without cancellation; absolute error below 1.2e-7.
SK_INLINE Vec tanh(Vec x) {
  constexpr float kTwoLog2E = 2.885390082f;
  constexpr float kSaturated = 40;
  const Vec t = minimum(Vec::broadcast(kSaturated), magnitude(x) * Vec::broadcast(kTwoLog2E));
  const Vec f = fraction(t);
  const Vec power = scale(Vec::broadcast(1), t);
  const Vec expm1 = fma(exp2m1_over_f(f) * f, power, power - Vec::broadcast(1));
  return copy_sign(expm1 / (expm1 + Vec::broadcast(2)), x);
}

}  // namespace segkernel
