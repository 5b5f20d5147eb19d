// The Schmitt trigger along one row on the host, 64 tokens at a time.
//
// `Bits`, of an instruction set, turns numbers and bytes to bits and back: see simd/bits_*.h.
#pragma once

#include <cstring>

#include "hysteresis_vectorised.h"
#include "schmitt_bitparallel.h"

namespace segkernel {

template <class Bits, class C>
class HysteresisByBits {
 public:
  template <class T>
  static void along(const T* rewards, const bool* mask, int64_t length, C low, C high, int initial, bool hold,
                    int8_t* states) {
    HysteresisByBits trigger(low, high, initial, hold);
    const int64_t whole = length - length % kBlock;
    for (int64_t t = 0; t < whole; t += kBlock) {
      trigger.next(rewards + t, mask == nullptr ? nullptr : mask + t, states + t);
    }
    const auto rest = static_cast<size_t>(length - whole);
    if (rest == 0) return;
    T rewards_of_rest[kBlock]{};
    bool mask_of_rest[kBlock]{};
    int8_t states_of_rest[kBlock];
    std::memcpy(rewards_of_rest, rewards + whole, rest * sizeof(T));
    if (mask != nullptr) std::memcpy(mask_of_rest, mask + whole, rest);
    trigger.next(rewards_of_rest, mask == nullptr ? nullptr : mask_of_rest, states_of_rest);
    std::memcpy(states + whole, states_of_rest, rest);
  }

 private:
  static constexpr int kBlock = 64;

  HysteresisByBits(C low, C high, int initial, bool hold) : low_(low), high_(high), trigger_(initial, hold) {}

  template <class T>
  SK_INLINE void next(const T* rewards, const bool* mask, int8_t* states) {
    const uint64_t valid = mask == nullptr ? ~uint64_t{0} : Bits::nonzero(mask);
    const auto [above, below] = Bits::outside(rewards, low_, high_);
    const auto [positive, negative] = trigger_.next(above & valid, below & valid);
    Bits::store_signs(positive.now & valid, negative.now & valid, states);
  }

  C low_, high_;
  SchmittBits<uint64_t> trigger_;
};

template <class Bits>
constexpr HysteresisKernels kHysteresisByBits = {&HysteresisByBits<Bits, float>::template along<float>,
                                                 &HysteresisByBits<Bits, float>::template along<bfloat16>,
                                                 &HysteresisByBits<Bits, float>::template along<float16>};

}  // namespace segkernel
