// `segment` as a scan. What some tokens do to those after them is a value, and such values compose: `Before` (the last
// reward, the trigger's transition) settles where segments start; with that, `Open` counts them and folds the last.
#pragma once

#include "../../cuda/row_tiles.cuh"
#include "segment_params.h"

namespace segkernel {

// A tile's tokens: more of them per thread than elsewhere, for what the threads do together takes most of the time. Of
// a batch of short rows a block has fewer threads, whole warps.
constexpr int kSegmentItems = 8;
constexpr int kSegmentThreads = kTile / kSegmentItems;

template <class C>
struct Before {
  C reward;  // of the last valid token
  int16_t any;
  int16_t transition;

  static __device__ Before nothing() { return {0, false, kUnchanged}; }
};

template <class C>
__device__ inline Before<C> then_before(const Before<C>& earlier, const Before<C>& later) {
  return {later.any ? later.reward : earlier.reward, static_cast<int16_t>(earlier.any | later.any),
          static_cast<int16_t>(then_transition(earlier.transition, later.transition))};
}

// Of a row's tokens so far: how many segments they start, and what the last one, still open, has.
template <Reduce kReduce, class C>
struct Open {
  int32_t segments;
  int32_t length;  // 0: no token so far
  C folded;

  static __device__ Open nothing() { return {0, 0, fold_identity<kReduce, C>()}; }
};

template <Reduce kReduce, class C>
__device__ inline Open<kReduce, C> then_open(const Open<kReduce, C>& earlier, const Open<kReduce, C>& later) {
  if (later.length == 0) return earlier;
  if (later.segments > 0) return {earlier.segments + later.segments, later.length, later.folded};
  return {earlier.segments, earlier.length + later.length, fold<kReduce>(earlier.folded, later.folded)};
}

// Before's parts each come from the last lane that has one, so a scan of it takes no steps.
template <class C>
class BeforeOfLanes {
 public:
  __device__ explicit BeforeOfLanes(const Before<C>& mine)
      : mine_(mine),
        with_reward_(__ballot_sync(kAllLanes, mine.any)),
        with_state_(__ballot_sync(kAllLanes, mine.transition != kUnchanged)) {}

  __device__ Before<C> of(unsigned lanes) const {
    const unsigned with_reward = with_reward_ & lanes;
    const unsigned with_state = with_state_ & lanes;
    const C reward = from_lane(mine_.reward, last_lane(with_reward));
    const int transition = from_lane(static_cast<int>(mine_.transition), last_lane(with_state));
    return {reward, with_reward != 0, static_cast<int16_t>(with_state == 0 ? kUnchanged : transition)};
  }

 private:
  const Before<C> mine_;
  const unsigned with_reward_, with_state_;
};

template <class C>
__device__ inline Scanned<Before<C>> scan_before(const Before<C>& mine) {
  __shared__ Before<C> of_warp[kWarpsOf<kSegmentThreads>];
  const BeforeOfLanes<C> lanes(mine);
  const Before<C> in_warp = lanes.of(lanes_before());
  const Before<C> of_this_warp = lanes.of(kAllLanes);
  __syncthreads();  // whoever called before may still be reading
  if (lane_index() == 0) of_warp[warp_index()] = of_this_warp;
  __syncthreads();
  const BeforeOfLanes<C> warps(lane_index() < warps_of_block() ? of_warp[lane_index()] : Before<C>::nothing());
  return {then_before(warps.of(lanes_before(warp_index())), in_warp), warps.of(kAllLanes)};
}

// The lanes' folds, each from the last lane on in which a segment starts.
template <Reduce kReduce, class C>
__device__ inline C fold_lanes(const Open<kReduce, C>& mine, unsigned starting) {
  if constexpr (kReduce == Reduce::last) {
    return from_lane(mine.folded, last_lane(__ballot_sync(kAllLanes, mine.length > 0) & lanes_through()));
  }
  const unsigned starting_here = starting & lanes_through();
  const int reach = lane_index() - (starting_here == 0 ? 0 : last_lane(starting_here));
  C folded = mine.folded;
#pragma unroll
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const C before = from_lane_before(folded, delta);
    if (reach >= delta) folded = fold<kReduce>(before, folded);
  }
  return folded;
}

// `tokens`: how many valid ones this thread has.
template <Reduce kReduce, class C>
struct ScannedOpen {
  Open<kReduce, C> before, all;
  int tokens_before, tokens;
};

template <Reduce kReduce, class C>
__device__ inline ScannedOpen<kReduce, C> scan_open(const Open<kReduce, C>& mine, int tokens) {
  using OpenOf = Open<kReduce, C>;
  __shared__ OpenOf of_warp[kWarpsOf<kSegmentThreads>];
  __shared__ int tokens_of_warp[kWarpsOf<kSegmentThreads>];
  // Both counts in one number: neither exceeds a tile.
  static_assert(kTile < 1 << 16);
  const int both = mine.segments << 16 | tokens;
  const int both_so_far = warp_inclusive_scan(both, [](int earlier, int later) { return earlier + later; });
  const int tokens_so_far = both_so_far & 0xffff;
  const unsigned starting = __ballot_sync(kAllLanes, mine.segments > 0);
  const int tokens_until_open = tokens_so_far - mine.length;  // before the segment that is open after this lane
  const C folded = fold_lanes(mine, starting);
  const auto open_after = [&](unsigned lanes, int both_there, C folded_there) -> OpenOf {
    const unsigned starting_there = starting & lanes;
    const int until_open = from_lane(tokens_until_open, last_lane(starting_there));
    return {both_there >> 16, (both_there & 0xffff) - (starting_there == 0 ? 0 : until_open), folded_there};
  };
  const OpenOf in_warp = open_after(lanes_before(), both_so_far - both, from_lane_before(folded, 1));
  const OpenOf of_this_warp = open_after(kAllLanes, both_so_far, folded);
  __syncthreads();  // whoever called before may still be reading
  if (lane_index() == kWarp - 1) {
    of_warp[warp_index()] = of_this_warp;
    tokens_of_warp[warp_index()] = tokens_so_far;
  }
  __syncthreads();
  int tokens_before = tokens_so_far - tokens;
  int tokens_in_all = 0;
#pragma unroll
  for (int warp = 0; warp < kWarpsOf<kSegmentThreads>; ++warp) {
    const int there = warp < warps_of_block() ? tokens_of_warp[warp] : 0;
    if (warp < warp_index()) tokens_before += there;
    tokens_in_all += there;
  }
  const auto warps = scan_warps<kSegmentThreads>(of_warp, OpenOf::nothing(), then_open<kReduce, C>);
  return {then_open(warps.before, in_warp), warps.all, tokens_before, tokens_in_all};
}

}  // namespace segkernel
