// The Schmitt trigger along a row of float32, bfloat16 or float16 rewards, 64 tokens at a time.
#pragma once

#include "../../simd/bitmask.h"
#include "../../simd/kernels_by_dtype.h"
#include "schmitt_bitparallel.h"

namespace segkernel {

template <class T>
using HysteresisKernel = void (*)(const T* rewards, const bool* mask, int64_t length, float low, float high,
                                  int initial, bool hold, int8_t* states);

#if defined(__x86_64__)
extern const KernelsByDtype<HysteresisKernel> kHysteresisAvx2, kHysteresisAvx512;
#endif

inline namespace SK_VEC_NAMESPACE {

// `mask` may be null. Masked tokens keep the state, and have 0 in `states`.
template <class T>
SK_INLINE void hysteresis_block(SchmittBits<uint64_t>& trigger, const T* rewards, const bool* mask, float low,
                                float high, int8_t* states) {
  const Vec lows = Vec::broadcast(low);
  const Vec highs = Vec::broadcast(high);
  const uint64_t valid = mask == nullptr ? ~uint64_t{0} : bits_of_bytes(mask);
  const uint64_t above = bits_where([&](int i) SK_INLINE_LAMBDA { return less(highs, Vec::load(rewards + i)); });
  const uint64_t below = bits_where([&](int i) SK_INLINE_LAMBDA { return less(Vec::load(rewards + i), lows); });
  const auto [positive, negative] = trigger.next(above & valid, below & valid);
  store_signs(positive.now & valid, negative.now & valid, states);
}

// A HysteresisKernel.
template <class T>
void hysteresis_simd(const T* rewards, const bool* mask, int64_t length, float low, float high, int initial, bool hold,
                     int8_t* states) {
  SchmittBits<uint64_t> trigger(initial, hold);
  int64_t t = 0;
  for (; t + kWordBits <= length; t += kWordBits) {
    hysteresis_block(trigger, rewards + t, mask == nullptr ? nullptr : mask + t, low, high, states + t);
  }
  if (t == length) return;
  const auto rest = static_cast<size_t>(length - t);
  T last_rewards[kWordBits]{};
  bool last_mask[kWordBits]{};
  int8_t last_states[kWordBits];
  memcpy(last_rewards, rewards + t, rest * sizeof(T));
  if (mask != nullptr) memcpy(last_mask, mask + t, rest);
  hysteresis_block(trigger, last_rewards, mask == nullptr ? nullptr : last_mask, low, high, last_states);
  memcpy(states + t, last_states, rest);
}

constexpr KernelsByDtype<HysteresisKernel> kHysteresisSimd = {hysteresis_simd<float>, hysteresis_simd<bfloat16>,
                                                              hysteresis_simd<float16>};

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
