// `segment` along a row of float32, bfloat16 or float16 rewards, up to 64 tokens at a time. Results equal those of the
// scalar definition, segment_row.h, bit for bit.
//
// Comparisons become bitmasks, on which the trigger and the starts are integer arithmetic. Rewards are folded in the
// order of the tokens, several stretches of a block side by side. No branch depends on where a segment starts.
#pragma once

#include <bit>

#include "../../simd/bitmask.h"
#include "../../simd/kernels_by_dtype.h"
#include "../../simd/transpose.h"
#include "../hysteresis/schmitt_bitparallel.h"
#include "segment_row.h"

namespace segkernel {

// Returns the number of segments; entries past it are unspecified.
template <class T>
using SegmentKernel = int32_t (*)(Reduce reduce, const T* rewards, const bool* mask, int64_t length,
                                  const SegmentRule<float>& rule, const SegmentOut& out);

extern const KernelsByDtype<SegmentKernel> kSegmentBaseline;
#if defined(__x86_64__)
extern const KernelsByDtype<SegmentKernel> kSegmentAvx2, kSegmentAvx512;
#endif

inline namespace SK_VEC_NAMESPACE {

constexpr int kBlock = kWordBits;  // tokens

// Running folds of a block: for every token, the fold of its segment's tokens up to it.
//
// The block is cut into stretches, one per lane, and each step folds the next token of every stretch. The fold at the
// end of a stretch is final after one pass if a segment starts in the stretch. A stretch without a start goes on with
// the one before and is final one pass after it. With stretches of 4 tokens and starts 0100 0000 0001, the second pass
// completes the second stretch, and the third pass the third.
//
// `open`: the fold of the segment that is open before the block, in the last lane. Returns that of the segment open
// after it.
template <Reduce kFold>
SK_INLINE Vec fold_block(Vec (&rewards)[kSteps], uint64_t starts, Vec open, Vec (&folds)[kSteps]) {
  to_stretches(rewards);
  const Vec::Integers lane_starts = split_word(starts);
  const auto pass = [&](Vec running) SK_INLINE_LAMBDA {
    for (int j = 0; j < kSteps; ++j) {
      running.v = (lane_starts << (31 - j)) < 0 ? rewards[j].v : fold<kFold>(running.v, rewards[j].v);
      folds[j] = running;
    }
    return running;
  };
  Vec ends = pass(Vec{});
  ends = pass(shift_up(open, ends));
  const uint64_t all_but_last = kLanesMask >> 1;
  for (uint64_t pending = movemask(lane_starts == 0) & all_but_last; pending != 0; pending &= pending << 1) {
    ends = pass(shift_up(open, ends));
  }
  from_stretches(folds);
  return ends;
}

// The segments of a row, block by block. A block holds the valid tokens of one or more words of 64 positions. `kFold`:
// a mean is a sum until its segment is complete.
template <Reduce kFold>
class SegmentBlocks {
 public:
  SK_INLINE SegmentBlocks(const SegmentRule<float>& rule, int64_t length, const SegmentOut& out)
      : rule_(rule), length_(length), out_(out), trigger_(rule.initial, rule.hold) {}

  SK_INLINE int32_t count() const { return count_; }

  SK_INLINE bool has_room_for(uint64_t valid) const {
    return tokens_ + std::popcount(valid) <= kBlock && words_ < kMaxWords;
  }

  // Adds the next 64 positions to the block. If all are valid and the block is empty, they are a block without a copy.
  template <class T>
  SK_INLINE void add(const T* rewards, uint64_t valid) {
    if (valid == ~uint64_t{0} && words_ == 0) {
      int32_t id = count_ - 1;
      uint64_t kept;
      const uint64_t starts = add_segments(rewards, kBlock, kept);
      store_word(starts, kept, valid, id);
      return;
    }
    valid_[words_++] = valid;
    for (int i = 0; i < kBlock; i += Vec::kLanes) {
      tokens_ += compress_store(Vec::load(rewards + i), valid >> i, rewards_ + tokens_);
    }
  }

  // Computes the block's segments, and begins a new block.
  SK_INLINE void finish_block() {
    int32_t id = count_ - 1;
    uint64_t starts = 0, kept = 0;
    // A repeated token changes neither the state nor the previous reward.
    for (int i = tokens_; tokens_ > 0 && i < kBlock; ++i) rewards_[i] = rewards_[tokens_ - 1];
    if (tokens_ > 0) starts = add_segments(rewards_, tokens_, kept);
    for (int w = 0; w < words_; ++w) {
      store_word(deposit_bits(starts, valid_[w]), deposit_bits(kept, valid_[w]), valid_[w], id);
      const int used = std::popcount(valid_[w]) % kBlock;  // after a word of 64 tokens, the others have none
      starts >>= used;
      kept >>= used;
    }
    words_ = tokens_ = 0;
  }

 private:
  static constexpr int kMaxWords = 16;

  // Writes the ids and the mask of the next 64 positions. `id`: of the token before, and then of the last one.
  SK_INLINE void store_word(uint64_t starts, uint64_t kept, uint64_t valid, int32_t& id) {
    at_positions(out_.ids, [&](int32_t* ids) SK_INLINE_LAMBDA { store_bit_counts(starts, valid, id, ids); });
    if (out_.mask != nullptr && rule_.use_trigger) {
      at_positions(out_.mask,
                   [&](bool* mask) SK_INLINE_LAMBDA { store_signs(kept, 0, reinterpret_cast<int8_t*>(mask)); });
    }
    id += std::popcount(starts);
    position_ += kBlock;
  }

  // Calls store(to) for the 64 entries of `row` from position_ on, through a copy if the row ends before.
  template <class E, class Store>
  SK_INLINE void at_positions(E* row, const Store& store) const {
    const int64_t left = length_ - position_;
    if (left >= kBlock) return store(row + position_);
    E last[kBlock];
    store(last);
    memcpy(row + position_, last, static_cast<size_t>(left) * sizeof(E));
  }

  // Adds 1 to 64 valid tokens. Returns the starts among them. `kept`: those that the loss mask of a trigger keeps.
  // Reads 64 entries of `rewards`.
  template <class T>
  SK_INLINE uint64_t add_segments(const T* rewards, int tokens, uint64_t& kept) {
    const Vec threshold = Vec::broadcast(rule_.pivot_threshold);
    const Vec low = Vec::broadcast(rule_.low);
    const Vec high = Vec::broadcast(rule_.high);
    Vec block[kSteps], previous[kSteps];
    for (int j = 0; j < kSteps; ++j) {
      block[j] = Vec::load(rewards + Vec::kLanes * j);
      previous[j] = shift_up(j == 0 ? last_rewards_ : block[j - 1], block[j]);
    }
    last_rewards_ = block[kSteps - 1];
    const uint64_t pivots = bits_where([&](int i) SK_INLINE_LAMBDA {
      return less(threshold, magnitude(block[i / Vec::kLanes] - previous[i / Vec::kLanes]));
    });
    const uint64_t above = bits_where([&](int i) SK_INLINE_LAMBDA { return less(high, block[i / Vec::kLanes]); });
    const uint64_t below = bits_where([&](int i) SK_INLINE_LAMBDA { return less(block[i / Vec::kLanes], low); });

    const auto [positive, negative] = trigger_.next(above, below);
    const uint64_t changed = (positive.now ^ positive.before) | (negative.now ^ negative.before);
    const uint64_t first = count_ == 0;
    const uint64_t all = first_bits(tokens);
    const uint64_t starts = (first | pivots | changed) & all;
    const uint64_t ends = (starts >> 1) | uint64_t{1} << (tokens - 1);
    kept = (positive.now & all_if_keeps(1)) | (negative.now & all_if_keeps(-1)) |
           (~(positive.now | negative.now) & all_if_keeps(0));

    Vec folds[kSteps];
    open_ = fold_block<kFold>(block, starts | ~all, open_, folds);
    if (tokens < kBlock) open_ = Vec::broadcast(folds[(tokens - 1) / Vec::kLanes].v[(tokens - 1) % Vec::kLanes]);
    // A segment ends at each bit of `ends`. The one that ends with the block may go on in the next block, which writes
    // it again.
    write_ends(ends, folds, positive.now, negative.now, count_ - ((starts & 1) == 0));
    end_ += tokens;
    count_ += std::popcount(starts);
    return starts;
  }

  SK_INLINE uint64_t all_if_keeps(int sign) const {
    return keeps(sign, rule_.sequence_sign, rule_.keep_neutral) ? ~uint64_t{0} : 0;
  }

  // Writes fold, sign and end of the tokens at the bits of `ends` from entry k on. Lengths are ends until the row is
  // complete.
  SK_INLINE void write_ends(uint64_t ends, const Vec (&folds)[kSteps], uint64_t positive, uint64_t negative,
                            int64_t k) const {
#if defined(__BMI2__)
    if (k + kBlock <= length_) {  // there is room for whole vectors; later segments overwrite what is past the end
      store_signs(_pext_u64(positive, ends), _pext_u64(negative, ends), out_.signs + k);
      for (int i = 0; i < kBlock; i += Vec::kLanes) {
        const Vec ends_at = Vec::of_bits(lane_indices() + static_cast<uint32_t>(end_ + i + 1));
        compress_store(ends_at, ends >> i, out_.lengths + k);
        k += compress_store(folds[i / Vec::kLanes], ends >> i, out_.rewards + k);
      }
      return;
    }
#endif
    float all_folds[kBlock];
    memcpy(all_folds, folds, sizeof(folds));
    for (; ends != 0; ends &= ends - 1, ++k) {
      const int t = std::countr_zero(ends);
      out_.lengths[k] = end_ + t + 1;
      out_.rewards[k] = all_folds[t];
      out_.signs[k] = static_cast<int8_t>((positive >> t & 1) - (negative >> t & 1));
    }
  }

  const SegmentRule<float>& rule_;
  const int64_t length_;
  const SegmentOut& out_;

  // The block: its first position, its words' valid bits, its tokens' rewards.
  int64_t position_ = 0;
  int words_ = 0, tokens_ = 0;
  uint64_t valid_[kMaxWords];
  alignas(64) float rewards_[kBlock + Vec::kLanes];

  // The row up to the block.
  SchmittBits<uint64_t> trigger_;
  int32_t count_ = 0;   // segments
  int32_t end_ = 0;     // tokens
  Vec last_rewards_{};  // the last lane counts, here and in open_
  Vec open_{};
};

template <Reduce kFold, class T>
SK_INLINE int32_t segment_blocks(const T* rewards, const bool* mask, int64_t length, const SegmentRule<float>& rule,
                                 const SegmentOut& out) {
  SegmentBlocks<kFold> blocks(rule, length, out);
  T last_rewards[kBlock]{};
  for (int64_t t = 0;; t += kBlock) {
    const int64_t left = length - t;
    uint64_t valid = 0;
    if (left > 0) valid = mask == nullptr ? first_bits(left) : bits_of_bytes(mask + t, left);
    const bool whole = left >= kBlock;
    if (left > 0 && !whole) memcpy(last_rewards, rewards + t, static_cast<size_t>(left) * sizeof(T));
    if (t >= length || !blocks.has_room_for(valid)) blocks.finish_block();
    if (t >= length) return blocks.count();
    blocks.add(whole ? rewards + t : last_rewards, valid);
  }
}

// A SegmentKernel.
template <class T>
int32_t segment_simd(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<float>& rule,
                     const SegmentOut& out) {
  const int32_t count = dispatch_reduce(reduce, [&]<Reduce kReduce>() {
    return segment_blocks<kReduce == Reduce::mean ? Reduce::sum : kReduce>(rewards, mask, length, rule, out);
  });
  for (int32_t k = count - 1; k > 0; --k) out.lengths[k] -= out.lengths[k - 1];
  if (reduce == Reduce::mean) {
    for (int32_t k = 0; k < count; ++k) out.rewards[k] = finish<Reduce::mean>(out.rewards[k], out.lengths[k]);
  }
  if (rule.use_trigger) return count;
  for (int32_t k = 0; k < count; ++k) out.signs[k] = static_cast<int8_t>(sign_of(out.rewards[k] - rule.baseline));
  if (out.mask != nullptr) mask_by_signs(out, length, rule);
  return count;
}

constexpr KernelsByDtype<SegmentKernel> kSegmentSimd = {segment_simd<float>, segment_simd<bfloat16>,
                                                        segment_simd<float16>};

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
