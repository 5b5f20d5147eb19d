// Reads and writes of rows of any alignment, 16 bytes per access.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "../core/dtypes.h"

namespace segkernel {

template <class T>
constexpr int kPerVector = 16 / sizeof(T);

template <class T>
struct Elements {
  T at[kPerVector<T>];
};

template <class T>
__device__ inline uint4 words_of(const Elements<T>& elements) {
  uint4 words;
  memcpy(&words, &elements, sizeof(words));
  return words;
}

// Element j of a vector, converted to the compute type.
template <class T>
__device__ inline compute_t<T> widened(const uint4& words, int j) {
  Elements<T> elements;
  memcpy(&elements, &words, sizeof(words));
  return widen(elements.at[j]);
}
// One instruction. Compilers need more for the generic version, which extracts 16 bits first.
template <>
__device__ inline float widened<bfloat16>(const uint4& words, int j) {
  const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
  return float_from_bits(j % 2 == 0 ? pairs[j / 2] << 16 : pairs[j / 2] & 0xffff0000u);
}

// The 16 bytes at offset `bytes` (< 16) of the 32 bytes (low, high). No array is indexed dynamically, so all stay in
// registers.
__device__ inline uint4 shifted(uint4 low, uint4 high, int bytes) {
  uint32_t words[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  if (bytes & 8) {
#pragma unroll
    for (int i = 0; i < 6; ++i) words[i] = words[i + 2];
  }
  if (bytes & 4) {
#pragma unroll
    for (int i = 0; i < 5; ++i) words[i] = words[i + 1];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint64_t pair = uint64_t{words[i + 1]} << 32 | words[i];
    words[i] = static_cast<uint32_t>(pair >> (8 * (bytes & 3)));
  }
  return {words[0], words[1], words[2], words[3]};
}

// The elements [0, count) of a row in vectors of kPerVector<T> elements that begin at index `first` and every
// kPerVector<T> from there on. A vector that is not aligned to 16 bytes is assembled from the two aligned ones that
// contain it, so the mapping of elements to threads does not depend on the alignment.
template <class T>
class RowVectors {
 public:
  __device__ RowVectors(const T* row, int count, int first)
      : before_(misalignment(row, first)), aligned_(row - before_), count_(count) {}

  // Whether all vectors from the one at element `i` to the one at element `last` can be loaded without an access
  // outside the row.
  __device__ bool loadable(int i, int last) const {
    return i >= before_ && last - before_ + (before_ == 0 ? 1 : 2) * kPerVector<T> <= count_;
  }

  // The vectors at i, i + stride, ... All loads are issued before the first result is used.
  template <int kCount>
  __device__ void load(int i, int stride, uint4 (&words)[kCount]) const {
    const uint4* from = vector(i);
    const int step = stride / kPerVector<T>;
    if (before_ == 0) {
#pragma unroll
      for (int u = 0; u < kCount; ++u) words[u] = load_aligned(from + u * step);
    } else {
#pragma unroll
      for (int u = 0; u < kCount; ++u) words[u] = load_shifted(from + u * step);
    }
  }

  // The same near the ends of the row. Elements outside the row are zeros.
  template <int kCount>
  __device__ void gather(int i, int stride, uint4 (&words)[kCount]) const {
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      const int at = i + u * stride;
      if (loadable(at, at)) {
        words[u] = before_ == 0 ? load_aligned(vector(at)) : load_shifted(vector(at));
        continue;
      }
      Elements<T> elements{};
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) {
        if (at + j >= 0 && at + j < count_) elements.at[j] = aligned_[before_ + at + j];
      }
      words[u] = words_of(elements);
    }
  }

 private:
  static __device__ int misalignment(const T* row, int first) {
    const auto bytes = reinterpret_cast<uintptr_t>(row) + first * static_cast<intptr_t>(sizeof(T));
    return static_cast<int>(bytes % 16 / sizeof(T));
  }

  __device__ const uint4* vector(int i) const { return reinterpret_cast<const uint4*>(aligned_ + i); }

  // Streaming load: each vector is read once.
  __device__ uint4 load_aligned(const uint4* from) const { return __ldcs(from); }

  // Cached loads: the second vector is the next thread's first one.
  __device__ uint4 load_shifted(const uint4* from) const {
    return shifted(from[0], from[1], before_ * static_cast<int>(sizeof(T)));
  }

  int before_;        // elements between the preceding 16-byte boundary and a vector
  const T* aligned_;  // row - before_
  int count_;
};

// Writes the elements of a vector at index `i` that lie in [0, count). `out + i` is aligned to 16 bytes.
template <class T>
__device__ inline void store_vector(T* out, int count, int i, const Elements<T>& elements) {
  if (i >= 0 && i + kPerVector<T> <= count) {
    *reinterpret_cast<uint4*>(out + i) = words_of(elements);
    return;
  }
#pragma unroll
  for (int j = 0; j < kPerVector<T>; ++j) {
    if (i + j >= 0 && i + j < count) out[i + j] = elements.at[j];
  }
}

// The index <= 0 of the last 16-byte boundary at or before out[0].
template <class T>
__device__ inline int first_vector(const T* out) {
  return -static_cast<int>(reinterpret_cast<uintptr_t>(out) % 16 / sizeof(T));
}

}  // namespace segkernel
