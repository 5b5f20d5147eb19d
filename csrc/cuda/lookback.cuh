// What a block tells the blocks after it while all of them run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace segkernel {

// A T of every slot. It travels 32 bits at a time, each in a 64-bit word with a tag, and such a word is read and
// written whole: a word that has its tag has its bits, so nobody needs a fence.
//
// Whoever waits is of a later block than the one waited for. Blocks start in the order of their numbers, so a block
// that is waited for runs or is done.
template <class T>
class Published {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 4 == 0);

 public:
  static constexpr int kWords = sizeof(T) / 4;

  Published() = default;
  // `words`: kWords for every slot, zeros at first.
  explicit Published(uint64_t* words) : words_(words) {}

  __device__ void publish(int64_t slot, const T& value) const {
    uint32_t bits[kWords];
    memcpy(bits, &value, sizeof(T));
    volatile uint64_t* to = words_ + slot * kWords;
#pragma unroll
    for (int word = 0; word < kWords; ++word) to[word] = kTag | bits[word];
  }

  // Waits for `kCount` slots at once: first, first + stride, ... The loads are all on their way before the first is
  // looked at. Past `end` nothing is waited for, and the value is `otherwise`.
  template <int kCount>
  __device__ void wait_for(T (&values)[kCount], int64_t first, int64_t stride, int64_t end, const T& otherwise) const {
    uint64_t words[kCount][kWords];
#pragma unroll
    for (int i = 0; i < kCount; ++i) peek(first + i * stride, end, words[i]);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      while (!complete(words[i])) {
        __nanosleep(20);
        peek(first + i * stride, end, words[i]);
      }
      values[i] = first + i * stride < end ? value_of(words[i]) : otherwise;
    }
  }

  __device__ T wait_for(int64_t slot) const {
    T values[1];
    wait_for(values, slot, 1, slot + 1, T{});
    return values[0];
  }

 private:
  static constexpr uint64_t kTag = uint64_t{1} << 32;

  __device__ void peek(int64_t slot, int64_t end, uint64_t (&words)[kWords]) const {
    const volatile uint64_t* from = words_ + slot * kWords;
#pragma unroll
    for (int word = 0; word < kWords; ++word) words[word] = slot < end ? from[word] : kTag;
  }

  static __device__ bool complete(const uint64_t (&words)[kWords]) {
    bool all = true;
#pragma unroll
    for (int word = 0; word < kWords; ++word) all &= words[word] >= kTag;
    return all;
  }

  static __device__ T value_of(const uint64_t (&words)[kWords]) {
    uint32_t bits[kWords];
#pragma unroll
    for (int word = 0; word < kWords; ++word) bits[word] = static_cast<uint32_t>(words[word]);
    T value;
    memcpy(&value, bits, sizeof(T));
    return value;
  }

  uint64_t* words_;
};

}  // namespace segkernel
