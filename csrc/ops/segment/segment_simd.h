// `segment` along a row of float32, bfloat16 or float16 rewards, 64 tokens at a time. Results equal those of the scalar
// definition, segment_row.h, bit for bit.
//
// Comparisons become bitmasks, on which the trigger and the starts are integer arithmetic. Rewards are folded in the
// order of the tokens, several stretches of a block side by side. No branch depends on where a segment starts.
#pragma once

#include <bit>

#include "../../simd/bitmask.h"
#include "../../simd/compact.h"
#include "../../simd/kernels_by_dtype.h"
#include "../../simd/transpose.h"
#include "../hysteresis/schmitt_bitparallel.h"
#include "segment_params.h"

namespace segkernel {

// Scratch memory of a row with a mask, one entry per position.
struct SegmentScratch {
  float* rewards;
  int32_t* ids;
  bool* mask;
};

// Returns the number of segments. `out` has room for as many segments as positions.
template <class T>
using SegmentKernel = int32_t (*)(Reduce reduce, const T* rewards, const bool* mask, int64_t length,
                                  const SegmentRule<float>& rule, const SegmentRowOut& out,
                                  const SegmentScratch& scratch);

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
// `open`: the fold of the segment that is open before the block. Returns that of the segment open after it.
template <Reduce kFold>
SK_INLINE float fold_block(Vec (&rewards)[kSteps], uint64_t starts, float open, Vec (&folds)[kSteps]) {
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
  ends = pass(shift_up(ends, open));
  const uint64_t all_but_last = kLanesMask >> 1;
  for (uint64_t pending = movemask(lane_starts == 0) & all_but_last; pending != 0; pending &= pending << 1) {
    ends = pass(shift_up(ends, open));
  }
  from_stretches(folds);
  return ends.v[Vec::kLanes - 1];
}

// The segments of a row of valid tokens, block by block. `kFold`: a mean is a sum until its segment is complete.
template <Reduce kFold>
class SegmentBlocks {
 public:
  SK_INLINE SegmentBlocks(const SegmentRule<float>& rule, const SegmentRowOut& out)
      : rule_(rule), out_(out), trigger_(rule.initial, rule.hold) {}

  SK_INLINE int32_t count() const { return count_; }

  // Adds the next 1 to 64 tokens. Reads 64 entries of `rewards` and of `previous`, which holds each token's previous
  // reward; writes 64 entries of `ids` and, with a trigger, of `mask`.
  template <class T>
  SK_INLINE void add(const T* rewards, const T* previous, int tokens, int32_t* ids, bool* mask) {
    const Vec threshold = Vec::broadcast(rule_.pivot_threshold);
    const Vec low = Vec::broadcast(rule_.low);
    const Vec high = Vec::broadcast(rule_.high);
    Vec block[kSteps];
    for (int j = 0; j < kSteps; ++j) block[j] = Vec::load(rewards + Vec::kLanes * j);
    const uint64_t pivots = bits_where([&](int i) SK_INLINE_LAMBDA {
      return less(threshold, magnitude(block[i / Vec::kLanes] - Vec::load(previous + i)));
    });
    const uint64_t above = bits_where([&](int i) SK_INLINE_LAMBDA { return less(high, block[i / Vec::kLanes]); });
    const uint64_t below = bits_where([&](int i) SK_INLINE_LAMBDA { return less(block[i / Vec::kLanes], low); });

    const auto [positive, negative] = trigger_.next(above, below);
    const uint64_t changed = (positive.now ^ positive.before) | (negative.now ^ negative.before);
    const uint64_t first = count_ == 0;
    const uint64_t all = ~uint64_t{0} >> (kBlock - tokens);
    const uint64_t starts = (first | pivots | changed) & all;
    const uint64_t ends = (starts >> 1) | uint64_t{1} << (tokens - 1);

    if (mask != nullptr && rule_.use_trigger) {
      store_bytes((positive.now & all_if_keeps(1)) | (negative.now & all_if_keeps(-1)) |
                      (~(positive.now | negative.now) & all_if_keeps(0)),
                  mask);
    }
    store_bit_counts(starts, count_ - 1, ids);
    Vec folds[kSteps];
    open_fold_ = fold_block<kFold>(block, starts, open_fold_, folds);
    // A segment ends at each bit of `ends`. The one that ends with the block may go on in the next block, which writes
    // it again.
    const int64_t k = count_ - ((starts & 1) == 0);
    write_ends(ends, tokens == kBlock, folds, positive.now, negative.now,
               {nullptr, out_.lengths + k, out_.rewards + k, out_.signs + k, nullptr, 0});
    tokens_ += tokens;
    count_ += std::popcount(starts);
  }

 private:
  SK_INLINE uint64_t all_if_keeps(int sign) const {
    return keeps(sign, rule_.sequence_sign, rule_.keep_neutral) ? ~uint64_t{0} : 0;
  }

  // Appends fold, sign and end of the tokens at the bits of `ends`. Lengths are ends until the row is complete.
  SK_INLINE void write_ends(uint64_t ends, [[maybe_unused]] bool whole, const Vec (&folds)[kSteps], uint64_t positive,
                            uint64_t negative, SegmentRowOut to) const {
    int8_t signs[kBlock];
    store_signs(positive, negative, signs);
#if defined(__AVX2__)
    // Vectors are stored whole: entries past those that count are overwritten later, and a whole block has room for
    // them.
#if defined(__AVX512F__)
    if (whole) store_signs(_pext_u64(positive, ends), _pext_u64(negative, ends), to.signs);
#endif
    Vec::Words lanes;
    for (int l = 0; l < Vec::kLanes; ++l) lanes[l] = static_cast<uint32_t>(l);
    for (int i = 0; whole && i < kBlock; i += Vec::kLanes, ends >>= Vec::kLanes) {
      const Vec ends_at = Vec::of_bits(lanes + static_cast<uint32_t>(tokens_ + i + 1));
      compress(ends_at, ends).store(reinterpret_cast<float*>(to.lengths));
      compress(folds[i / Vec::kLanes], ends).store(to.rewards);
      const int ended = std::popcount(ends & kLanesMask);
      to.lengths += ended;
      to.rewards += ended;
#if !defined(__AVX512F__)
      const __m128i ended_signs = _mm_shuffle_epi8(load_bytes8(signs + i), lookup8(kSetBits, ends & 0xff));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to.signs), ended_signs);
      to.signs += ended;
#endif
    }
    if (whole) return;
#endif
    float all_folds[kBlock];
    memcpy(all_folds, folds, sizeof(folds));
    for (; ends != 0; ends &= ends - 1) {
      const int t = std::countr_zero(ends);
      *to.lengths++ = tokens_ + t + 1;
      *to.rewards++ = all_folds[t];
      *to.signs++ = signs[t];
    }
  }

  const SegmentRule<float>& rule_;
  const SegmentRowOut& out_;
  SchmittBits<uint64_t> trigger_;
  int32_t count_ = 0;
  float open_fold_ = 0;
  int32_t tokens_ = 0;
};

template <Reduce kFold, class T>
SK_INLINE int32_t segment_blocks(const T* rewards, int64_t length, const SegmentRule<float>& rule,
                                 const SegmentRowOut& out) {
  SegmentBlocks<kFold> blocks(rule, out);
  int64_t t = 0;
  for (; t + kBlock <= length; t += kBlock) {
    T previous[kBlock];
    if (t == 0) {
      previous[0] = rewards[0];
      memcpy(previous + 1, rewards, sizeof(previous) - sizeof(T));
    }
    blocks.add(rewards + t, t == 0 ? previous : rewards + t - 1, kBlock, out.ids + t,
               out.mask == nullptr ? nullptr : out.mask + t);
  }
  if (t == length) return blocks.count();
  // The tokens of a last block that is not whole, and the reward before them.
  const auto rest = static_cast<size_t>(length - t);
  T last_rewards[1 + kBlock]{};
  int32_t last_ids[kBlock];
  bool last_mask[kBlock];
  if (t > 0) last_rewards[0] = rewards[t - 1];
  memcpy(last_rewards + 1, rewards + t, rest * sizeof(T));
  blocks.add(last_rewards + 1, last_rewards, static_cast<int>(rest), last_ids,
             out.mask == nullptr ? nullptr : last_mask);
  memcpy(out.ids + t, last_ids, rest * sizeof(int32_t));
  if (out.mask != nullptr) memcpy(out.mask + t, last_mask, rest);
  return blocks.count();
}

// A row without holes.
template <class T>
SK_INLINE int32_t segment_valid(Reduce reduce, const T* rewards, int64_t length, const SegmentRule<float>& rule,
                                const SegmentRowOut& out) {
  const int32_t count = dispatch_reduce(reduce, [&]<Reduce kReduce>() {
    return segment_blocks<kReduce == Reduce::mean ? Reduce::sum : kReduce>(rewards, length, rule, out);
  });
  for (int32_t k = count - 1; k > 0; --k) out.lengths[k] -= out.lengths[k - 1];
  if (reduce == Reduce::mean) {
    for (int32_t k = 0; k < count; ++k) out.rewards[k] = finish<Reduce::mean>(out.rewards[k], out.lengths[k]);
  }
  if (rule.use_trigger) return count;
  for (int32_t k = 0; k < count; ++k) out.signs[k] = static_cast<int8_t>(sign_of(out.rewards[k] - rule.baseline));
  if (out.mask == nullptr) return count;
  const auto keeps_sign = [&](int sign) { return keeps(sign, rule.sequence_sign, rule.keep_neutral); };
  const bool kept[3] = {keeps_sign(-1), keeps_sign(0), keeps_sign(1)};
  for (int64_t t = 0; t < length; ++t) out.mask[t] = kept[1 + out.signs[out.ids[t]]];
  return count;
}

// A SegmentKernel.
template <class T>
int32_t segment_simd(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<float>& rule,
                     const SegmentRowOut& out, const SegmentScratch& scratch) {
  if (mask == nullptr) return segment_valid(reduce, rewards, length, rule, out);
  const int64_t tokens = compress_valid(rewards, mask, length, scratch.rewards);
  SegmentRowOut valid = out;
  valid.ids = scratch.ids;
  if (out.mask != nullptr) valid.mask = scratch.mask;
  const int32_t count = segment_valid(reduce, scratch.rewards, tokens, rule, valid);
  expand_valid(scratch.ids, scratch.mask, mask, length, out.ids, out.mask);
  return count;
}

constexpr KernelsByDtype<SegmentKernel> kSegmentSimd = {segment_simd<float>, segment_simd<bfloat16>,
                                                        segment_simd<float16>};

}  // namespace SK_VEC_NAMESPACE
}  // namespace segkernel
