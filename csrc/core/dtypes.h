// Floating-point types of scores and logits, and the compute type of each.
// bfloat16 and float16 are storage types: values are widened to float on load, on GPUs by conversion instructions.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SK_HOST_DEVICE __host__ __device__
#else
#define SK_HOST_DEVICE
#endif

namespace segkernel {

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

SK_HOST_DEVICE inline float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

SK_HOST_DEVICE inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Conversion to the compute type; exact.
SK_HOST_DEVICE inline double widen(double value) { return value; }
SK_HOST_DEVICE inline float widen(float value) { return value; }
SK_HOST_DEVICE inline float widen(bfloat16 value) { return float_from_bits(uint32_t{value.bits} << 16); }
SK_HOST_DEVICE inline float widen(float16 value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  // Normal and subnormal numbers: an exact multiplication by 2^112 corrects the exponent.
  if (magnitude < 0x7c00u) {
    return float_from_bits(sign | bits_of_float(float_from_bits(magnitude << 13) * 0x1p112f));
  }
  return float_from_bits(sign | 0x7f800000u | (magnitude << 13));
#endif
}

// Conversion from the compute type, rounded to nearest even; NaN stays NaN.
template <class T>
SK_HOST_DEVICE T narrow(double value);
template <class T>
SK_HOST_DEVICE T narrow(float value);

template <>
SK_HOST_DEVICE inline double narrow<double>(double value) {
  return value;
}
template <>
SK_HOST_DEVICE inline float narrow<float>(float value) {
  return value;
}
template <>
SK_HOST_DEVICE inline bfloat16 narrow<bfloat16>(float value) {
#if defined(__CUDA_ARCH__)
  bfloat16 narrowed;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(value));
  return narrowed;
#else
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}
template <>
SK_HOST_DEVICE inline float16 narrow<float16>(float value) {
#if defined(__CUDA_ARCH__)
  float16 narrowed;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(value));
  return narrowed;
#else
  const uint32_t bits = bits_of_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {
    // A float16 subnormal is a multiple of 2^-24. Adding 0.5 rounds to a multiple and leaves it in the lowest bits.
    const uint32_t rounded = bits_of_float(float_from_bits(magnitude) + 0.5f);
    return {static_cast<uint16_t>(sign | (rounded - 0x3f000000u))};
  }
  return {static_cast<uint16_t>(sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13))};
#endif
}

// The compute type: double for double, float for all others.
template <class T>
using compute_t = decltype(widen(T{}));

}  // namespace segkernel
