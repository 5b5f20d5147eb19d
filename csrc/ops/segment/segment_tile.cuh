// `segment` as two scans over a tile. A scan over PrefixState determines where segments start; with that, a scan over
// OpenSegment counts and reduces them. ThreadTokens are one thread's part of both.
#pragma once

#include "../../cuda/tile_schedule.cuh"
#include "segment_params.h"

namespace segkernel {

// 8 items per thread: the block-wide scans dominate, so fewer threads are better. Blocks of short rows have only as
// many warps as the rows need.
constexpr int kSegmentItems = 8;
constexpr int kSegmentThreads = kTile / kSegmentItems;

// Scan state of a run of tokens: the last valid reward, and the transition function of the Schmitt trigger.
template <class C>
struct PrefixState {
  C reward;
  int16_t any;  // whether the run has a valid token
  int16_t transition;

  static __device__ PrefixState identity() { return {0, false, kUnchanged}; }

  static __device__ PrefixState combine(const PrefixState& earlier, const PrefixState& later) {
    return {later.any ? later.reward : earlier.reward, static_cast<int16_t>(earlier.any | later.any),
            static_cast<int16_t>(then_transition(earlier.transition, later.transition))};
  }
};

// Scan state of a run of tokens: the number of segment starts, and the tokens since the last one.
template <Reduce kReduce, class C>
struct OpenSegment {
  int32_t segments;
  int32_t length;  // 0: the run has no valid token
  C folded;

  static __device__ OpenSegment identity() { return {0, 0, fold_identity<kReduce, C>()}; }

  static __device__ OpenSegment combine(const OpenSegment& earlier, const OpenSegment& later) {
    if (later.length == 0) return earlier;
    if (later.segments > 0) return {earlier.segments + later.segments, later.length, later.folded};
    return {earlier.segments, earlier.length + later.length, fold<kReduce>(earlier.folded, later.folded)};
  }
};

// The states of a tile's threads as a scan, and the state of all earlier tiles of the row.
template <class State>
__device__ inline ExclusiveScan<State> scan(const State& mine) {
  return block_scan<kSegmentThreads>(mine, State::identity(), State::combine);
}
template <class State>
__device__ inline State look_back(const TileAggregates<State>& aggregates, const Tile& tile) {
  return look_back<kSegmentThreads>(aggregates, tile, State::identity(), State::combine);
}

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

// Bit i of a mask is the thread's token i. Means are folded as sums; the division is done when a segment is written.
template <Reduce kReduce, class T, class C = compute_t<T>>
class ThreadTokens {
 public:
  // `rewards`, `mask` (or null) and `length` are the tile's.
  __device__ ThreadTokens(const T* rewards, const bool* mask, int length, const SegmentRule<C>& rule)
      : length_(length), rule_(rule) {
    const auto narrow = load_items<kSegmentItems>(rewards, first(), length);
    Items<bool, kSegmentItems> valid;
    if (mask != nullptr) valid = load_items<kSegmentItems>(mask, first(), length);
#pragma unroll
    for (int i = 0; i < kSegmentItems; ++i) {
      rewards_[i] = widen(narrow.of[i]);
      valid_ |= bit(mask != nullptr ? valid.of[i] : first() + i < length, i);
    }
  }

  static __device__ int first() { return static_cast<int>(threadIdx.x) * kSegmentItems; }

  __device__ PrefixState<C> prefix_state() const {
    auto result = PrefixState<C>::identity();
#pragma unroll
    for (int i = 0; i < kSegmentItems; ++i) {
      if (is(valid_, i)) result = {rewards_[i], true, static_cast<int16_t>(step(result.transition, i))};
    }
    return result;
  }

  // Finds the segment starts. `before`: of all earlier tokens of the row and the initial state.
  __device__ OpenSegment<kReduce, C> open_segment(const PrefixState<C>& before) {
    state_ = before.transition;
    auto last = before;
#pragma unroll
    for (int i = 0; i < kSegmentItems; ++i) {
      if (!is(valid_, i)) continue;
      const int next = step(last.transition, i);
      const bool first = !last.any;
      starts_ |=
          bit(starts_segment(first, rewards_[i], last.reward, rule_.pivot_threshold, next, int{last.transition}), i);
      last = {rewards_[i], true, static_cast<int16_t>(next)};
    }
    auto result = OpenSegment<kReduce, C>::identity();
    each_fold(result.folded, [](int) {});
    result.segments = __popc(starts_);
    result.length = __popc(starts_ == 0 ? valid_ : valid_ >> last_lane(starts_));
    return result;
  }

  // Writes the ids and the mask (or null) of the tokens, and the segments that end to `ended`. `open`: of all earlier
  // tokens of the row. `started`: segments of the row that start before this tile. `ends_row`: whether the row ends
  // after these tokens.
  __device__ void write(OpenSegment<kReduce, C> open, int32_t started, bool ends_row, int32_t* ids, bool* mask,
                        EndedSegments<C>& ended) const {
    Items<int32_t, kSegmentItems> id;
    Items<bool, kSegmentItems> kept;
    int state = state_;
    each_fold(open.folded, [&](int i) {
      if (is(starts_, i)) {
        ended.set(open.segments - started, open.folded, open.length, state);
        ++open.segments;
        open.length = 0;
      }
      if (is(valid_, i)) {
        ++open.length;
        state = step(state, i);
      }
      id.of[i] = is(valid_, i) ? open.segments - 1 : -1;
      kept.of[i] = is(valid_, i) && keeps(state, rule_.sequence_sign, rule_.keep_neutral);
    });
    store_items(ids, first(), length_, id);
    if (mask != nullptr) store_items(mask, first(), length_, kept);
    if (ends_row) ended.set(open.segments - started, open.folded, open.length, state);
  }

 private:
  static __device__ unsigned bit(bool set, int i) { return set ? 1u << i : 0; }
  static __device__ bool is(unsigned bits, int i) { return (bits >> i & 1) != 0; }
  __device__ int step(int state, int i) const {
    return schmitt_step(state, rewards_[i], rule_.low, rule_.high, rule_.hold);
  }

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
  unsigned valid_ = 0, starts_ = 0;
  int state_;  // of the trigger before the first token
};

}  // namespace segkernel
