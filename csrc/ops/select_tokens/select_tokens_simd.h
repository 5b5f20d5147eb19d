// The loops of the selection on the host, compiled for one instruction set: rank keys of valid tokens, the steps of a
// quickselect, and the comparison of all tokens with the threshold. 64 tokens at a time for float32, bfloat16 and
// float16; float64 by the scalar definition.
#pragma once

#include "../../simd/bitmask.h"
#include "select_tokens.h"

namespace segkernel {

constexpr int kKeySlack = 64;  // entries past the keys of a buffer, which vector stores may write
constexpr int kKeySample = 32;

// Tokens with a larger key are selected, and of those with this key the first `ties`.
template <class Key>
struct Threshold {
  Key key;
  int64_t ties;
};

struct Outside {
  int64_t above, below;
};

template <class T, class Key = RankKey<compute_t<T>>>
struct SelectKernels {
  // Writes the keys of the valid tokens, in their order, and returns their number.
  int64_t (*valid_keys)(const T* values, const bool* mask, int64_t length, bool largest, Key* keys);
  // Counts the keys above and below [low, high].
  Outside (*count_outside)(const Key* keys, int64_t count, Key low, Key high);
  // Keeps the keys in [low, high], in their order, and returns their number.
  int64_t (*keep_between)(Key* keys, int64_t count, Key low, Key high);
  // Sorts kKeySample keys in descending order.
  void (*sort_sample)(const Key* keys, Key* sorted);
  // Writes which tokens are selected.
  void (*write_selected)(const T* values, const bool* mask, int64_t length, bool largest, Threshold<Key> threshold,
                         bool* selected);
};

struct SelectKernelTable {
  SelectKernels<double> of_double;
  SelectKernels<float> of_float;
  SelectKernels<bfloat16> of_bfloat16;
  SelectKernels<float16> of_float16;

  template <class T>
  const SelectKernels<T>& of() const {
    if constexpr (std::is_same_v<T, double>) return of_double;
    if constexpr (std::is_same_v<T, float>) return of_float;
    if constexpr (std::is_same_v<T, bfloat16>) return of_bfloat16;
    if constexpr (std::is_same_v<T, float16>) return of_float16;
  }
};

#if defined(__x86_64__)
extern const SelectKernelTable kSelectAvx2, kSelectAvx512;
#endif

inline namespace SK_VEC_NAMESPACE {

// `rank_key` of each lane.
SK_INLINE Vec::Integers rank_keys(Vec x, bool largest) {
  const auto bits = reinterpret_cast<Vec::Integers>(x.v);
  const Vec::Integers magnitude = bits & 0x7fffffff;
  // Negation where the flip is -1: (5 ^ -1) - -1 = -5.
  const Vec::Integers flip = (bits >> 31) ^ (largest ? 0 : -1);
  const Vec::Integers is_nan = magnitude > 0x7f800000;
  return (((magnitude ^ flip) - flip) & ~is_nan) | (is_nan & std::numeric_limits<int32_t>::min());
}

// Calls block(values, valid, i, count) for each word of 64 tokens. The word starts at token i and has `count` tokens of
// the row; the last word may have fewer than 64, and its values are then copied and padded with zeros.
template <class T, class Block>
SK_INLINE void for_each_word(const T* values, const bool* mask, int64_t length, const Block& block) {
  int64_t i = 0;
  for (; i + kWordBits <= length; i += kWordBits) {
    block(values + i, mask == nullptr ? ~uint64_t{0} : bits_of_bytes(mask + i), i, kWordBits);
  }
  if (i == length) return;
  T last[kWordBits]{};
  memcpy(last, values + i, static_cast<size_t>(length - i) * sizeof(T));
  const uint64_t valid = mask == nullptr ? first_bits(length - i) : bits_of_bytes(mask + i, length - i);
  block(last, valid, i, static_cast<int>(length - i));
}

template <class T>
int64_t valid_keys(const T* values, const bool* mask, int64_t length, bool largest, int32_t* keys) {
  int32_t* end = keys;
  for_each_word(values, mask, length, [&](const T* word, uint64_t valid, int64_t, int) SK_INLINE_LAMBDA {
    for (int i = 0; i < kWordBits; i += Vec::kLanes) {
      const auto lanes = reinterpret_cast<Vec::Words>(rank_keys(Vec::load(word + i), largest));
      end += compress_store(Vec::of_bits(lanes), valid >> i, end);
    }
  });
  return end - keys;
}

inline int64_t valid_keys(const double* values, const bool* mask, int64_t length, bool largest, int64_t* keys) {
  int64_t* end = keys;
  for_each_word(values, mask, length, [&](const double* word, uint64_t valid, int64_t, int) SK_INLINE_LAMBDA {
    for (int i = 0; i < kWordBits; ++i) {
      *end = rank_key(word[i], largest);
      end += valid >> i & 1;
    }
  });
  return end - keys;
}

template <class Key>
Outside count_outside(const Key* keys, int64_t count, Key low, Key high) {
  Outside outside{0, 0};
  for (int64_t i = 0; i < count;) {
    const int64_t end = count - i < 1 << 16 ? count : i + (1 << 16);
    Key above = 0, below = 0;  // as wide as the keys, for vectorization
    for (; i < end; ++i) {
      above += keys[i] > high;
      below += keys[i] < low;
    }
    outside.above += above;
    outside.below += below;
  }
  return outside;
}

SK_INLINE Vec::Integers load_keys(const int32_t* keys) {
  Vec::Integers lanes;
  memcpy(&lanes, keys, sizeof(lanes));
  return lanes;
}

inline int64_t keep_between(int32_t* keys, int64_t count, int32_t low, int32_t high) {
  const Vec::Integers lows = low - Vec::Integers{};
  const Vec::Integers highs = high - Vec::Integers{};
  int32_t* end = keys;
  for (int64_t i = 0; i < count; i += Vec::kLanes) {
    const Vec::Integers lanes = load_keys(keys + i);
    const uint64_t outside = greater(lanes, highs) | greater(lows, lanes);
    const uint64_t inside = ~outside & first_bits(count - i);
    end += compress_store(Vec::of_bits(reinterpret_cast<Vec::Words>(lanes)), inside, end);
  }
  return end - keys;
}

inline int64_t keep_between(int64_t* keys, int64_t count, int64_t low, int64_t high) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    keys[kept] = keys[i];
    kept += low <= keys[i] && keys[i] <= high;
  }
  return kept;
}

// Rank sort: the place of a key is the number of keys before it. 7 9 7 -> places 1 0 2 -> 9 7 7.
template <class Key>
void sort_sample(const Key* keys, Key* sorted) {
  Key places[kKeySample]{};
  for (Key i = 0; i < kKeySample; ++i) {
    for (Key j = 0; j < kKeySample; ++j) places[j] += (keys[i] > keys[j]) | ((keys[i] == keys[j]) & (i < j));
  }
  for (int j = 0; j < kKeySample; ++j) sorted[places[j]] = keys[j];
}

// The lowest `count` set bits.
SK_INLINE uint64_t first_set_bits(uint64_t bits, int64_t count) {
  return count >= kWordBits ? bits : count <= 0 ? 0 : deposit_bits(first_bits(count), bits);
}

template <class T>
void write_selected(const T* values, const bool* mask, int64_t length, bool largest, Threshold<int32_t> threshold,
                    bool* selected) {
  const Vec::Integers keys_at = threshold.key - Vec::Integers{};
  for_each_word(values, mask, length, [&](const T* word, uint64_t valid, int64_t t, int count) SK_INLINE_LAMBDA {
    uint64_t above = 0, below = 0;
    for (int i = 0; i < kWordBits; i += Vec::kLanes) {
      const Vec::Integers keys = rank_keys(Vec::load(word + i), largest);
      above |= greater(keys, keys_at) << i;
      below |= greater(keys_at, keys) << i;
    }
    const uint64_t equal = ~(above | below) & valid;
    const uint64_t chosen = (above & valid) | first_set_bits(equal, threshold.ties);
    threshold.ties -= std::popcount(equal);
    int8_t bytes[kWordBits];
    auto* to = count == kWordBits ? reinterpret_cast<int8_t*>(selected + t) : bytes;
    store_signs(chosen, 0, to);
    if (to == bytes) memcpy(selected + t, bytes, static_cast<size_t>(count));
  });
}

inline void write_selected(const double* values, const bool* mask, int64_t length, bool largest,
                           Threshold<int64_t> threshold, bool* selected) {
  for_each_word(values, mask, length, [&](const double* word, uint64_t valid, int64_t t, int count) SK_INLINE_LAMBDA {
    for (int i = 0; i < count; ++i) {
      const int64_t key = rank_key(word[i], largest);
      const bool is_valid = valid >> i & 1;
      const bool is_tie = is_valid && key == threshold.key;
      selected[t + i] = (is_valid && key > threshold.key) || (is_tie && threshold.ties > 0);
      threshold.ties -= is_tie;
    }
  });
}

template <class T>
constexpr SelectKernels<T> kSelectKernels = {valid_keys, count_outside, keep_between, sort_sample, write_selected};

constexpr SelectKernelTable kSelectSimd = {kSelectKernels<double>, kSelectKernels<float>, kSelectKernels<bfloat16>,
                                           kSelectKernels<float16>};

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
