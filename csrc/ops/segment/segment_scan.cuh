// `segment` as two scans. A scan over PrefixState determines where segments start; with that, a scan over OpenSegment
// counts and reduces them.
#pragma once

#include "../../cuda/lookback.cuh"
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
  if (tile.index == 0) return State::identity();
  return look_back<kSegmentThreads>(aggregates, tile.first_block(), tile.block, State::identity(), State::combine);
}

}  // namespace segkernel
