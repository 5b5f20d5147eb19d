// Radix select: finds the key of the k-th selected token digit by digit, from the most significant one. Each step needs
// a histogram of the digit over the keys that agree with the k-th in all earlier digits.
#pragma once

#include "../../cuda/row_tiles.cuh"
#include "select_tokens.h"

namespace segkernel {

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;

// Bits of a rank key that can differ. The keys of bfloat16 and float16 end in zeros, those added by `widen`.
template <class T>
constexpr int kKeyBits = 8 * sizeof(T);
template <>
inline constexpr int kKeyBits<float16> = 19;

template <class T>
using RadixKey = std::make_unsigned_t<RankKey<compute_t<T>>>;

// The rank key as an unsigned integer of kKeyBits<T> bits, in the same order. None is as large as 2^kKeyBits<T> - 1.
template <class T>
__device__ inline RadixKey<T> radix_key(T value, bool largest) {
  constexpr int kWidth = 8 * sizeof(RadixKey<T>);
  const auto key = static_cast<RadixKey<T>>(rank_key<compute_t<T>>(widen(value), largest));
  return (key ^ RadixKey<T>{1} << (kWidth - 1)) >> (kWidth - kKeyBits<T>);
}

template <class T>
struct SelectInput {
  const T* values;
  const bool* mask;
  bool largest;
};

// The thread's keys of a tile.
template <class T>
struct TileKeys {
  RadixKey<T> of[kItems];
  Items<bool> valid;

  // `first`: index in the row of the thread's first token.
  __device__ TileKeys(const SelectInput<T>& input, const Row& row, int64_t first)
      : valid(load_valid(input.mask, row.begin, first, row.length)) {
    const Items<T> values = load_items(input.values + row.begin, first, row.length);
#pragma unroll
    for (int i = 0; i < kItems; ++i) of[i] = radix_key(values.of[i], input.largest);
  }
};

// State of the search, the same in all threads.
template <class T>
struct RadixSearch {
  using Key = RadixKey<T>;

  Key prefix;    // the digits found so far, then zeros
  int unknown;   // bits below them
  int64_t rank;  // k among the keys that have these digits
  // The result, when `unknown` is 0: the tokens with a key of at least `sure` are selected, and the first `ties` of
  // those with the key before it.
  Key sure;
  int64_t ties;

  static __device__ RadixSearch start() { return {0, kKeyBits<T>, 0, static_cast<Key>(~Key{0}), 0}; }

  __device__ int shift() const { return unknown > kDigitBits ? unknown - kDigitBits : 0; }

  // Adds the thread's keys of a tile to a histogram of the next digit. Near the end a digit has fewer new bits; the
  // known ones above them are the same in all keys that are counted.
  template <class Count>
  __device__ void count(const TileKeys<T>& keys, Count* histogram) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const bool agrees = (keys.of[i] ^ prefix) >> (unknown - 1) >> 1 == 0;
      if (keys.valid.of[i] && agrees) atomicAdd(&histogram[(keys.of[i] >> shift()) % kBins], Count{1});
    }
  }

  // Finds the next digit. `rank_of(n)` gives k at the first digit, whose histogram counts all n valid tokens.
  template <class Count, class RankOf>
  __device__ void next_digit(const Count* histogram, const RankOf& rank_of) {
    constexpr int kBinsPerThread = kBins / kThreads;
    __shared__ RadixSearch found;
    // In descending order of the digits.
    const Count* bins = histogram + kBins - 1 - threadIdx.x * kBinsPerThread;
    Count count = 0;
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) count += bins[-i];
    const ExclusiveScan<Count> above = block_scan<kThreads>(count, Count{0}, [](Count a, Count b) { return a + b; });
    if (unknown == kKeyBits<T>) rank = rank_of(static_cast<int64_t>(above.total));
    if (rank == 0) {
      unknown = 0;
      return;
    }
    auto before = static_cast<int64_t>(above.prefix);
    if (before < rank && rank <= before + static_cast<int64_t>(count)) {
      RadixSearch next = *this;
      int i = 0;
      for (; before + static_cast<int64_t>(bins[-i]) < rank; ++i) before += bins[-i];
      next.narrow(static_cast<Key>(bins - i - histogram), before, bins[-i]);
      found = next;
    }
    __syncthreads();
    *this = found;
    __syncthreads();  // WAR hazard: the next call writes it
  }

  // Selection among the thread's tokens of a tile. `ties_before`: tokens with the key before `sure` in earlier
  // tiles, which this call adds the tile's to.
  __device__ Items<bool> selected(const TileKeys<T>& keys, int64_t& ties_before) const {
    Items<bool> chosen;
#pragma unroll
    for (int i = 0; i < kItems; ++i) chosen.of[i] = keys.valid.of[i] && keys.of[i] >= sure;
    if (ties == 0) return chosen;
    int own = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) own += is_tie(keys, i);
    const ExclusiveScan<int> others = block_scan<kThreads>(own, 0, [](int a, int b) { return a + b; });
    int64_t before = ties_before + others.prefix;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      chosen.of[i] |= is_tie(keys, i) && before < ties;
      before += is_tie(keys, i);
    }
    ties_before += others.total;
    return chosen;
  }

  __device__ bool is_tie(const TileKeys<T>& keys, int i) const { return keys.valid.of[i] && keys.of[i] == sure - 1; }

 private:
  // `before`: keys with a larger digit; `count`: keys with this one.
  __device__ void narrow(Key digit, int64_t before, int64_t count) {
    prefix |= digit << shift();
    rank -= before;
    unknown = shift();
    if (rank == count) {  // all tokens with these digits are selected
      unknown = 0;
      sure = prefix;
    } else if (unknown == 0) {
      sure = prefix + 1;
      ties = rank;
    }
  }
};

}  // namespace segkernel
