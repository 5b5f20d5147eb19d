// `segment` as two scans. A scan over PrefixState determines where segments start; with that, a scan over OpenSegment
// counts and reduces them.
#pragma once

#include "../../cuda/row_tiles.cuh"
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
};

template <class C>
__device__ inline PrefixState<C> combine_prefixes(const PrefixState<C>& earlier, const PrefixState<C>& later) {
  return {later.any ? later.reward : earlier.reward, static_cast<int16_t>(earlier.any | later.any),
          static_cast<int16_t>(then_transition(earlier.transition, later.transition))};
}

// Scan state of a run of tokens: the number of segment starts, and the tokens since the last one.
template <Reduce kReduce, class C>
struct OpenSegment {
  int32_t segments;
  int32_t length;  // 0: the run has no valid token
  C folded;

  static __device__ OpenSegment identity() { return {0, 0, fold_identity<kReduce, C>()}; }
};

template <Reduce kReduce, class C>
__device__ inline OpenSegment<kReduce, C> combine_open(const OpenSegment<kReduce, C>& earlier,
                                                       const OpenSegment<kReduce, C>& later) {
  if (later.length == 0) return earlier;
  if (later.segments > 0) return {earlier.segments + later.segments, later.length, later.folded};
  return {earlier.segments, earlier.length + later.length, fold<kReduce>(earlier.folded, later.folded)};
}

// Prefix states of a warp's lanes, combined over any set of lanes. Both parts of the combination come from the last
// lane that has one, so two ballots and two shuffles replace the steps of a scan.
template <class C>
class LanePrefixes {
 public:
  __device__ explicit LanePrefixes(const PrefixState<C>& mine)
      : mine_(mine),
        with_reward_(__ballot_sync(kAllLanes, mine.any)),
        with_state_(__ballot_sync(kAllLanes, mine.transition != kUnchanged)) {}

  __device__ PrefixState<C> combined(unsigned lanes) const {
    const unsigned with_reward = with_reward_ & lanes;
    const unsigned with_state = with_state_ & lanes;
    const C reward = from_lane(mine_.reward, last_lane(with_reward));
    const int transition = from_lane(static_cast<int>(mine_.transition), last_lane(with_state));
    return {reward, with_reward != 0, static_cast<int16_t>(with_state == 0 ? kUnchanged : transition)};
  }

 private:
  const PrefixState<C> mine_;
  const unsigned with_reward_, with_state_;
};

template <class C>
__device__ inline ExclusiveScan<PrefixState<C>> scan_prefixes(const PrefixState<C>& mine) {
  __shared__ PrefixState<C> of_warp[kWarpsOf<kSegmentThreads>];
  const LanePrefixes<C> lanes(mine);
  const PrefixState<C> before_in_warp = lanes.combined(lanes_before());
  const PrefixState<C> warp_total = lanes.combined(kAllLanes);
  __syncthreads();  // WAR hazard: threads may still read of_warp for a previous call
  if (lane_index() == 0) of_warp[warp_index()] = warp_total;
  __syncthreads();
  const LanePrefixes<C> warps(lane_index() < warps_of_block() ? of_warp[lane_index()] : PrefixState<C>::identity());
  return {combine_prefixes(warps.combined(lanes_before(warp_index())), before_in_warp), warps.combined(kAllLanes)};
}

// Segmented scan of the lanes' folds. `starting`: the lanes in which a segment starts.
template <Reduce kReduce, class C>
__device__ inline C scan_lane_folds(const OpenSegment<kReduce, C>& mine, unsigned starting) {
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

template <Reduce kReduce, class C>
struct OpenSegmentScan {
  OpenSegment<kReduce, C> prefix, total;
  int tokens_before, tokens;  // valid tokens of earlier threads, and of all threads
};

// `tokens`: the number of this thread's valid tokens.
template <Reduce kReduce, class C>
__device__ inline OpenSegmentScan<kReduce, C> scan_open(const OpenSegment<kReduce, C>& mine, int tokens) {
  using Open = OpenSegment<kReduce, C>;
  __shared__ Open of_warp[kWarpsOf<kSegmentThreads>];
  __shared__ int tokens_of_warp[kWarpsOf<kSegmentThreads>];
  // One scan of both counts, segments << 16 | tokens. Neither exceeds a tile.
  static_assert(kTile < 1 << 16);
  const int counts = mine.segments << 16 | tokens;
  const int counts_through = warp_inclusive_scan(counts, [](int earlier, int later) { return earlier + later; });
  const int tokens_through = counts_through & 0xffff;
  const unsigned starting = __ballot_sync(kAllLanes, mine.segments > 0);
  const int tokens_before_open = tokens_through - mine.length;  // before the segment that is open after this lane
  const C folded = scan_lane_folds(mine, starting);
  const auto open_after = [&](unsigned lanes, int counts_there, C folded_there) -> Open {
    const unsigned starting_there = starting & lanes;
    const int before_open = from_lane(tokens_before_open, last_lane(starting_there));
    return {counts_there >> 16, (counts_there & 0xffff) - (starting_there == 0 ? 0 : before_open), folded_there};
  };
  const Open before_in_warp = open_after(lanes_before(), counts_through - counts, from_lane_before(folded, 1));
  const Open warp_total = open_after(kAllLanes, counts_through, folded);
  __syncthreads();  // WAR hazard: threads may still read both arrays for a previous call
  if (lane_index() == kWarp - 1) {
    of_warp[warp_index()] = warp_total;
    tokens_of_warp[warp_index()] = tokens_through;
  }
  __syncthreads();
  int tokens_before = tokens_through - tokens;
  int all_tokens = 0;
#pragma unroll
  for (int warp = 0; warp < kWarpsOf<kSegmentThreads>; ++warp) {
    const int there = warp < warps_of_block() ? tokens_of_warp[warp] : 0;
    if (warp < warp_index()) tokens_before += there;
    all_tokens += there;
  }
  const auto warps = scan_warps<kSegmentThreads>(of_warp, Open::identity(), combine_open<kReduce, C>);
  return {combine_open(warps.prefix, before_in_warp), warps.total, tokens_before, all_tokens};
}

}  // namespace segkernel
