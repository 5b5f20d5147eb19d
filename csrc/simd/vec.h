// Vec: a vector of floats as wide as the instruction set that the including file is compiled for.
//
// Arithmetic is the vector extension of GCC and Clang; intrinsics are used only where neither compiler finds the
// instruction by itself. Vec lives in an inline namespace named after the instruction set, so templates over it are
// different symbols in every such file, which the linker cannot confuse.
#pragma once

#include <string.h>

#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "../core/dtypes.h"
#include "../core/inline.h"

// SK_X86(op): the intrinsic `op` at the width of Vec.
#if defined(__AVX512F__)  // with BW, DQ and VL
#define SK_VEC_NAMESPACE avx512
#define SK_VEC_BYTES 64
#define SK_X86(op) _mm512_##op
#elif defined(__AVX2__)  // with FMA and F16C
#define SK_VEC_NAMESPACE avx2
#define SK_VEC_BYTES 32
#define SK_X86(op) _mm256_##op
#else  // SSE2, NEON, or whatever the compiler makes of 16 bytes
#define SK_VEC_NAMESPACE baseline
#define SK_VEC_BYTES 16
#define SK_X86(op) _mm_##op
#endif

namespace segkernel {
inline namespace SK_VEC_NAMESPACE {

struct Vec {
  using Scalar = float;
  using Floats = float __attribute__((vector_size(SK_VEC_BYTES)));
  using Integers = int32_t __attribute__((vector_size(SK_VEC_BYTES)));
  using Words = uint32_t __attribute__((vector_size(SK_VEC_BYTES)));
  using Halves = uint16_t __attribute__((vector_size(SK_VEC_BYTES / 2)));
  using Packed = long long __attribute__((vector_size(SK_VEC_BYTES / 2)));  // __m128i or __m256i
  static constexpr int kLanes = SK_VEC_BYTES / 4;
#if defined(__AVX512F__)
  static constexpr float kLowest = -2048;  // exp2(kLowest) is 0
#else
  static constexpr float kLowest = -126.5f;  // likewise: its floor is -127, the exponent of 0
#endif

  Floats v;

  static SK_INLINE Vec broadcast(float x) { return {x - Floats{}}; }
  static SK_INLINE Vec of_bits(Words bits) { return {reinterpret_cast<Floats>(bits)}; }
  SK_INLINE Words bits() const { return reinterpret_cast<Words>(v); }

  // kLanes consecutive elements, widened.
  static SK_INLINE Vec load(const float* p) {
    Vec x;
    memcpy(&x.v, p, sizeof(x.v));
    return x;
  }
  static SK_INLINE Vec load(const bfloat16* p) {
    Halves halves;
    memcpy(&halves, p, sizeof(halves));
    return of_bits(__builtin_convertvector(halves, Words) << 16);
  }
  static SK_INLINE Vec load(const float16* p) {
#if defined(__AVX2__)
    Packed halves;
    memcpy(&halves, p, sizeof(halves));
    return {SK_X86(cvtph_ps)(halves)};
#elif defined(__ARM_NEON)
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)))};
#else
    return {Floats{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}};
#endif
  }

  // kLanes elements, rounded to nearest even.
  SK_INLINE void store(float* p) const { memcpy(p, &v, sizeof(v)); }
  SK_INLINE void store(float16* p) const {
#if defined(__AVX2__)
    const Packed halves = SK_X86(cvtps_ph)(v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(p, &halves, sizeof(halves));
#elif defined(__ARM_NEON)
    vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(v)));
#else
    for (int k = 0; k < kLanes; ++k) p[k] = narrow<float16>(v[k]);
#endif
  }

  // 2 * kLanes consecutive elements in the cheapest order, which store2 undoes: bfloat16 is split into even and odd
  // elements, the low and the high half of every 32-bit word.
  template <class T>
  static SK_INLINE void load2(const T* p, Vec& a, Vec& b) {
    a = load(p);
    b = load(p + kLanes);
  }
  static SK_INLINE void load2(const bfloat16* p, Vec& a, Vec& b) {
    Words pairs;
    memcpy(&pairs, p, sizeof(pairs));
    a = of_bits(pairs << 16);
    b = of_bits(pairs & 0xffff0000u);
  }
  // Index, in the two vectors, of the element k that load2 read.
  template <class T>
  static constexpr int64_t load2_position(int64_t k) {
    return std::is_same_v<T, bfloat16> ? k % 2 * kLanes + k / 2 : k;
  }
  template <class T>
  static SK_INLINE void store2(T* p, Vec a, Vec b) {
    a.store(p);
    b.store(p + kLanes);
  }
  static SK_INLINE void store2(bfloat16* p, Vec a, Vec b) {
    const Words pairs = (a.rounded_to_bfloat16() >> 16) | (b.rounded_to_bfloat16() & 0xffff0000u);
    memcpy(p, &pairs, sizeof(pairs));
  }

 private:
  // The nearest bfloat16 (ties to even) in the high half of every word; the low half is undefined.
  SK_INLINE Words rounded_to_bfloat16() const { return bits() + 0x7fffu + ((bits() >> 16) & 1u); }
};

SK_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
SK_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
SK_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
SK_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
SK_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }  // contracted where there is an instruction
SK_INLINE Vec magnitude(Vec x) { return Vec::of_bits(x.bits() & 0x7fffffffu); }
SK_INLINE Vec copy_sign(Vec y, Vec x) { return Vec::of_bits(y.bits() | (x.bits() & 0x80000000u)); }  // y >= 0

// NaN where b is NaN.
#if defined(__SSE2__)
SK_INLINE Vec maximum(Vec a, Vec b) { return {SK_X86(max_ps)(a.v, b.v)}; }
SK_INLINE Vec minimum(Vec a, Vec b) { return {SK_X86(min_ps)(a.v, b.v)}; }
#elif defined(__ARM_NEON)
SK_INLINE Vec maximum(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
SK_INLINE Vec minimum(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
#else
SK_INLINE Vec maximum(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
SK_INLINE Vec minimum(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
#endif

// x where a > b, otherwise y.
SK_INLINE Vec select_greater(Vec a, Vec b, Vec x, Vec y) { return {a.v > b.v ? x.v : y.v}; }

// 0, 1, ..., kLanes - 1.
SK_INLINE Vec::Words lane_indices() {
  Vec::Words lanes;
  for (int l = 0; l < Vec::kLanes; ++l) lanes[l] = static_cast<uint32_t>(l);
  return lanes;
}

// Reductions by halves: lanes 0 1 2 3 -> 0+2 1+3 -> (0+2)+(1+3).
template <class Fold>
SK_INLINE float reduce(Vec x, const Fold& fold) {
  float lanes[Vec::kLanes];
  x.store(lanes);
  for (int half = Vec::kLanes / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) lanes[k] = fold(lanes[k], lanes[k + half]);
  }
  return lanes[0];
}
SK_INLINE float reduce_add(Vec x) {
  return reduce(x, [](float a, float b) SK_INLINE_LAMBDA { return a + b; });
}
SK_INLINE float reduce_max(Vec x) {
  return reduce(x, [](float a, float b) SK_INLINE_LAMBDA { return a > b ? a : b; });
}

// The steps of exp2: fraction(t) = t - floor(t), and scale(p, t) = p * 2^floor(t) for kLowest <= t < 128.
#if defined(__AVX512F__)
SK_INLINE Vec fraction(Vec t) { return {_mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
SK_INLINE Vec scale(Vec p, Vec t) { return {_mm512_scalef_ps(p.v, t.v)}; }
#else
SK_INLINE Vec floor(Vec t) {
#if defined(__AVX2__)
  return {_mm256_floor_ps(t.v)};
#elif defined(__ARM_NEON)
  return {vrndmq_f32(t.v)};
#else
  // Floats in [2^23, 2^24) are integers, so adding 1.5 * 2^23 rounds t - 1/2 to one. For whole t that may be t - 1: the
  // fraction is then 1, which suits the polynomial as well.
  return {(t.v - 0.5f + 0x1.8p23f) - 0x1.8p23f};
#endif
}
SK_INLINE Vec fraction(Vec t) { return t - floor(t); }
SK_INLINE Vec scale(Vec p, Vec t) {
  const Vec exponent = floor(t) + Vec::broadcast(0x1.8p23f + 127);  // biased, in the low bits of the sum
  return p * Vec::of_bits(exponent.bits() << 23);
}
#endif

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
