// One thread's tokens of a tile, as rewards and as bitmasks (bit 0: the first token).
#pragma once

#include "../hysteresis/schmitt_bitparallel.h"
#include "segment_scan.cuh"

namespace segkernel {

// Segments that end in a tile, in shared memory. Each start ends the previous segment, and the row's end the last one.
template <class C>
struct EndedSegments {
  struct alignas(2 * sizeof(C)) Ended {
    C folded;
    uint32_t end;  // position in the tile of the first token after the segment: valid tokens before it << 16 | all
  } segments[kTile + 1];
  // Trigger states before each token of a thread, as bitmasks. The last entry is for the row's end.
  struct States {
    uint8_t positive, negative;
  } states[kSegmentThreads + 1];

  __device__ int state_of(uint32_t end) const {
    const uint32_t token = end & 0xffff;
    const States before = states[token / kSegmentItems];
    return (before.positive >> token % kSegmentItems & 1) - (before.negative >> token % kSegmentItems & 1);
  }
};

// Means are folded as sums; the division is done when a segment is written.
template <Reduce kReduce, class T, class C = compute_t<T>>
class ThreadTokens {
 public:
  // `rewards`, `mask` (or null) and `length` are the tile's.
  __device__ ThreadTokens(const T* rewards, const bool* mask, int length, const SegmentRule<C>& rule)
      : length_(length), rule_(rule) {
    const auto narrow = load_items<kSegmentItems>(rewards, first(), length);
    if (mask != nullptr) {
      const auto valid = load_items<kSegmentItems>(mask, first(), length);
      valid_ = 0;
#pragma unroll
      for (int i = 0; i < kSegmentItems; ++i) valid_ |= bit(valid.of[i], i);
    } else {
      const int here = length - first() < 0 ? 0 : length - first() < kSegmentItems ? length - first() : kSegmentItems;
      valid_ = (1u << here) - 1;
    }
    above_ = below_ = 0;
#pragma unroll
    for (int i = 0; i < kSegmentItems; ++i) {
      rewards_[i] = widen(narrow.of[i]);
      above_ |= bit(is_above(rewards_[i], rule.high), i);
      below_ |= bit(is_below(rewards_[i], rule.low), i);
    }
    above_ &= valid_;
    below_ &= valid_;
    settled_ = rule.hold ? above_ | below_ : valid_;
  }

  static __device__ int first() { return static_cast<int>(threadIdx.x) * kSegmentItems; }
  __device__ int count() const { return __popc(valid_); }

  __device__ PrefixState<C> prefix_state() const {
    auto result = PrefixState<C>::identity();
    result.any = valid_ != 0;
#pragma unroll
    for (int i = 0; i < kSegmentItems; ++i) {
      if (is(valid_, i)) result.reward = rewards_[i];
    }
    if (settled_ != 0) {
      const int last = last_bit(settled_);
      result.transition = static_cast<int16_t>((above_ >> last & 1) - (below_ >> last & 1));
    }
    return result;
  }

  // Computes trigger states and segment starts. `before`: of all earlier tokens of the row and the initial state.
  __device__ OpenSegment<kReduce, C> open_segment(const PrefixState<C>& before) {
    unsigned pivots = 0;
    C previous = before.reward;
#pragma unroll
    for (int i = 0; i < kSegmentItems; ++i) {
      if (!is(valid_, i)) continue;
      pivots |= bit(is_pivot(rewards_[i], previous, rule_.pivot_threshold), i);
      previous = rewards_[i];
    }
    positive_ = propagate_state<unsigned>(above_, ~settled_, before.transition > 0);
    negative_ = propagate_state<unsigned>(below_, ~settled_, before.transition < 0);
    const unsigned changed = (positive_.now ^ positive_.before) | (negative_.now ^ negative_.before);
    const unsigned first = before.any ? 0 : valid_ & -valid_;
    starts_ = valid_ & (first | pivots | changed);

    auto result = OpenSegment<kReduce, C>::identity();
    each_fold(result.folded, [](int) {});
    result.segments = __popc(starts_);
    result.length = __popc(starts_ == 0 ? valid_ : valid_ >> last_bit(starts_));
    return result;
  }

  // Writes the ids and the mask (or null) of the tokens, and the segments that end to `ended`. `open`: of all earlier
  // tokens of the row. `started`: segments of the row that start before this tile. `earlier`: valid tokens of the tile
  // before this thread's.
  __device__ void write(const OpenSegment<kReduce, C>& open, int32_t started, int earlier, int32_t* ids, bool* mask,
                        EndedSegments<C>& ended) const {
    Items<int32_t, kSegmentItems> id;
    Items<bool, kSegmentItems> kept;
    const unsigned keep = ((keeps(1) ? positive_.now : 0) | (keeps(-1) ? negative_.now : 0) |
                           (keeps(0) ? ~(positive_.now | negative_.now) : 0)) &
                          valid_;
    int32_t segment = open.segments - 1;
    C folded = open.folded;
    auto* next_ended = &ended.segments[open.segments - started];
    uint32_t here = static_cast<uint32_t>(earlier) << 16 | first();
    each_fold(folded, [&](int i) {
      if (is(starts_, i)) {
        *next_ended++ = {folded, here};
        ++segment;
      }
      here += is(valid_, i) ? 1u << 16 | 1 : 1;
      id.of[i] = is(valid_, i) ? segment : -1;
      kept.of[i] = is(keep, i);
    });
    ended.states[threadIdx.x] = {static_cast<uint8_t>(positive_.before), static_cast<uint8_t>(negative_.before)};
    store_items(ids, first(), length_, id);
    if (mask != nullptr) store_items(mask, first(), length_, kept);
  }

  // Writes the segment that ends with the row to `ended`. Called by the block's last thread.
  __device__ void end_row(const OpenSegment<kReduce, C>& row, int32_t started, int tokens,
                          EndedSegments<C>& ended) const {
    ended.segments[row.segments - started] = {row.folded, static_cast<uint32_t>(tokens) << 16 | kTile};
    ended.states[kSegmentThreads] = {static_cast<uint8_t>(positive_.now >> (kSegmentItems - 1) & 1),
                                     static_cast<uint8_t>(negative_.now >> (kSegmentItems - 1) & 1)};
  }

 private:
  static __device__ unsigned bit(bool set, int i) { return set ? 1u << i : 0; }
  static __device__ bool is(unsigned bits, int i) { return (bits >> i & 1) != 0; }
  static __device__ int last_bit(unsigned bits) { return last_lane(bits); }
  __device__ bool keeps(int state) const { return segkernel::keeps(state, rule_.sequence_sign, rule_.keep_neutral); }

  // Folds the tokens into `folded` in order. Calls at(i) before token i.
  template <class At>
  __device__ void each_fold(C& folded, const At& at) const {
#pragma unroll
    for (int i = 0; i < kSegmentItems; ++i) {
      at(i);
      if (is(valid_, i)) folded = is(starts_, i) ? rewards_[i] : fold<kReduce>(folded, rewards_[i]);
    }
  }

  const int length_;
  const SegmentRule<C>& rule_;
  C rewards_[kSegmentItems];
  unsigned valid_, above_, below_;
  unsigned settled_;  // tokens whose state does not depend on the previous one
  unsigned starts_;
  StateBits<unsigned> positive_, negative_;
};

}  // namespace segkernel
