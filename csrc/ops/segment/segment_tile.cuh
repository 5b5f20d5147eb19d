// One thread's tokens of a tile, as rewards and as bitmasks (bit 0: the first token).
#pragma once

#include "../hysteresis/schmitt_bitparallel.h"
#include "segment_scan.cuh"

namespace segkernel {

// Segments that end in a tile, in shared memory. Each start ends the previous segment, and the row's end the last one.
template <class C>
struct EndedSegments {
  C folded[kTile + 1];
  int32_t lengths[kTile + 1];
  int8_t states[kTile + 1];  // of the trigger

  __device__ void set(int index, C fold, int32_t length, int state) {
    folded[index] = fold;
    lengths[index] = length;
    states[index] = static_cast<int8_t>(state);
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
  // tokens of the row. `started`: segments of the row that start before this tile. `ends_row`: whether the row ends
  // after these tokens.
  __device__ void write(OpenSegment<kReduce, C> open, int32_t started, bool ends_row, int32_t* ids, bool* mask,
                        EndedSegments<C>& ended) const {
    Items<int32_t, kSegmentItems> id;
    Items<bool, kSegmentItems> kept;
    const unsigned keep = ((keeps(1) ? positive_.now : 0) | (keeps(-1) ? negative_.now : 0) |
                           (keeps(0) ? ~(positive_.now | negative_.now) : 0)) &
                          valid_;
    each_fold(open.folded, [&](int i) {
      if (is(starts_, i)) {
        const int state = is(positive_.before, i) - is(negative_.before, i);
        ended.set(open.segments - started, open.folded, open.length, state);
        ++open.segments;
        open.length = 0;
      }
      open.length += is(valid_, i);
      id.of[i] = is(valid_, i) ? open.segments - 1 : -1;
      kept.of[i] = is(keep, i);
    });
    store_items(ids, first(), length_, id);
    if (mask != nullptr) store_items(mask, first(), length_, kept);
    if (!ends_row) return;
    const int state = is(positive_.now, kSegmentItems - 1) - is(negative_.now, kSegmentItems - 1);
    ended.set(open.segments - started, open.folded, open.length, state);
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
