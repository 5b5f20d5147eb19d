// Selection on the host: a quickselect on rank keys finds the threshold, with which all tokens are then compared.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "../../simd/isa.h"
#include "select_tokens_simd.h"

namespace segkernel {

template <class T>
const SelectKernels<T>& select_kernels() {
  const SelectKernelTable* table = &kSelectSimd;
#if defined(__x86_64__)
  if (chosen_isa() == Isa::avx512) table = &kSelectAvx512;
  if (chosen_isa() == Isa::avx2) table = &kSelectAvx2;
#endif
  return table->of<T>();
}

// Consecutive tokens, and the rank keys of those among them that can still be the k-th.
template <class Key>
struct SelectChunk {
  int64_t begin, length;
  Key* keys;
  int64_t size = 0;      // of `keys`
  Outside outside = {};  // of the interval counted last
  int64_t ties = 0;      // selected from here on
};

// Runs loops on the calling thread.
struct Serial {
  template <class Body>
  void operator()(int64_t count, int64_t work, const Body& body) const {
    for (int64_t i = 0; i < count; ++i) body(i);
  }
};

// The keys of a row, or of the whole batch, in chunks that may be processed at the same time. `for_each(count, work,
// body)` calls body(i) for each i in [0, count), in any order, to process `work` keys.
template <class T, class ForEach>
class KeyChunks {
 public:
  using Key = RankKey<compute_t<T>>;
  using Chunk = SelectChunk<Key>;

  KeyChunks(Chunk* chunks, int64_t count, const ForEach& for_each)
      : chunks_(chunks), count_(count), for_each_(for_each) {}

  int64_t size() const { return size_; }

  void load(const T* values, const bool* mask, int64_t length, bool largest) {
    for_each_(count_, length, [&](int64_t i) {
      Chunk& chunk = chunks_[i];
      const bool* valid = mask == nullptr ? nullptr : mask + chunk.begin;
      chunk.size = kernels_.valid_keys(values + chunk.begin, valid, chunk.length, largest, chunk.keys);
    });
    update_size();
  }

  Outside count_outside(Key low, Key high) {
    for_each_(count_, size_, [&](int64_t i) {
      chunks_[i].outside = kernels_.count_outside(chunks_[i].keys, chunks_[i].size, low, high);
    });
    Outside total{};
    for (int64_t i = 0; i < count_; ++i) {
      total.above += chunks_[i].outside.above;
      total.below += chunks_[i].outside.below;
    }
    return total;
  }

  void keep_between(Key low, Key high) {
    for_each_(count_, size_,
              [&](int64_t i) { chunks_[i].size = kernels_.keep_between(chunks_[i].keys, chunks_[i].size, low, high); });
    update_size();
  }

  // kKeySample keys at equal distances, or all keys and then the lowest possible one, in descending order.
  void sample(Key* sorted) const {
    Key keys[kKeySample];
    std::fill_n(keys, kKeySample, std::numeric_limits<Key>::min());
    const int64_t sampled = std::min<int64_t>(size_, kKeySample);
    const int64_t stride = size_ / std::max<int64_t>(sampled, 1);
    int64_t chunk = 0, begin = 0;  // index of the chunk's first key
    for (int64_t i = 0; i < sampled; ++i) {
      const int64_t index = i * stride;
      for (; index - begin >= chunks_[chunk].size; ++chunk) begin += chunks_[chunk].size;
      keys[i] = chunks_[chunk].keys[index - begin];
    }
    kernels_.sort_sample(keys, sorted);
  }

 private:
  void update_size() {
    size_ = 0;
    for (int64_t i = 0; i < count_; ++i) size_ += chunks_[i].size;
  }

  const SelectKernels<T>& kernels_ = select_kernels<T>();
  Chunk* chunks_;
  int64_t count_;
  const ForEach& for_each_;
  int64_t size_ = 0;
};

// Quickselect: narrows the interval of keys that contains the k-th, 1 <= k <= keys.size(), until it is a single key or
// few tokens are left in it. A step keeps an interval around the k-th's place in a sample (Floyd & Rivest 1975,
// "Expected time bounds for selection"). After a step that keeps more than half of the tokens, the interval is the
// sample's key at that place, and after another one, half of the range of keys. So the number of steps is bounded.
template <class Keys, class Key = typename Keys::Key>
Threshold<Key> find_threshold(Keys& keys, int64_t k) {
  Key lowest = std::numeric_limits<Key>::min(), highest = std::numeric_limits<Key>::max();
  for (int slow_steps = 0; lowest < highest;) {
    const int64_t size = keys.size();
    Key sample[kKeySample];
    keys.sample(sample);
    if (size <= kKeySample) {
      const Key key = sample[k - 1];
      return {key, k - (std::find(sample, sample + k, key) - sample)};
    }
    Key low = std::midpoint(lowest, highest) + 1, high = highest;
    if (slow_steps % 3 < 2) {
      const int64_t place = (k - 1) * kKeySample / size;
      const int64_t margin = slow_steps % 3 == 0 ? kKeySample / 8 : 0;
      high = place < margin ? highest : sample[place - margin];
      low = place + margin >= kKeySample ? lowest : sample[place + margin];
    }
    const Outside outside = keys.count_outside(low, high);
    const int64_t not_below = size - outside.below;
    if (k <= outside.above) {
      lowest = high + 1;
    } else if (k > not_below) {
      k -= not_below;
      highest = low - 1;
    } else {
      k -= outside.above;
      lowest = low;
      highest = high;
    }
    keys.keep_between(lowest, highest);
    slow_steps = keys.size() > size / 2 ? slow_steps + 1 : 0;
  }
  return {lowest, k};
}

// Marks k_of(n) of the n valid tokens. `chunks` cover the tokens.
template <class T, class ForEach, class CountOf>
void select_from_chunks(const T* values, const bool* mask, int64_t length, bool largest,
                        SelectChunk<RankKey<compute_t<T>>>* chunks, int64_t count, const CountOf& k_of,
                        const ForEach& for_each, bool* selected) {
  using Key = RankKey<compute_t<T>>;
  KeyChunks<T, ForEach> keys(chunks, count, for_each);
  keys.load(values, mask, length, largest);
  const int64_t k = k_of(keys.size());
  const auto threshold = k == 0 ? Threshold<Key>{std::numeric_limits<Key>::max(), 0} : find_threshold(keys, k);
  if (count > 1) keys.count_outside(threshold.key, threshold.key);
  int64_t ties = threshold.ties;
  for (int64_t i = 0; i < count; ++i) {
    chunks[i].ties = ties;
    ties -= chunks[i].size - chunks[i].outside.above - chunks[i].outside.below;
  }
  for_each(count, length, [&](int64_t i) {
    const SelectChunk<Key>& chunk = chunks[i];
    const bool* valid = mask == nullptr ? nullptr : mask + chunk.begin;
    select_kernels<T>().write_selected(values + chunk.begin, valid, chunk.length, largest, {threshold.key, chunk.ties},
                                       selected + chunk.begin);
  });
}

// Marks the tokens of one row.
template <class T, class CountOf>
void select_row(const T* values, const bool* mask, int64_t length, bool largest, const CountOf& k_of,
                std::vector<RankKey<compute_t<T>>>& keys, bool* selected) {
  if (std::ssize(keys) < length + kKeySlack) keys.resize(length + kKeySlack);
  SelectChunk<RankKey<compute_t<T>>> chunk{0, length, keys.data()};
  select_from_chunks(values, mask, length, largest, &chunk, 1, k_of, Serial(), selected);
}

// Marks the tokens of one long row, or of the whole batch.
template <class T, class CountOf, class ForEach>
void select_long_row(const T* values, const bool* mask, int64_t length, bool largest, const CountOf& k_of,
                     const ForEach& for_each, bool* selected) {
  using Key = RankKey<compute_t<T>>;
  constexpr int64_t kChunk = 16384;
  const int64_t count = (length + kChunk - 1) / kChunk;
  const auto keys = std::make_unique_for_overwrite<Key[]>(length + count * kKeySlack);
  std::vector<SelectChunk<Key>> chunks;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = i * kChunk;
    chunks.push_back({begin, std::min(kChunk, length - begin), keys.get() + begin + i * kKeySlack});
  }
  select_from_chunks(values, mask, length, largest, chunks.data(), count, k_of, for_each, selected);
}

}  // namespace segkernel
