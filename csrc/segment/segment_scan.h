// `segment` as a scan. What some tokens do to those after them is a value, and such values compose: `Before` (the last
// reward, the trigger's transition) settles where segments start; with that, `Open` counts them and adds up the last.
#pragma once

#include "../cuda/row_tiles.h"
#include "segment_rules.h"

namespace segkernel {

template <class C>
struct Before {
  Latest<C> reward;
  int transition;

  static __device__ Before nothing() { return {{}, kUnchanged}; }
};

template <class C>
__device__ inline Before<C> then_before(const Before<C>& earlier, const Before<C>& later) {
  return {latest(earlier.reward, later.reward), then_transition(earlier.transition, later.transition)};
}

// Of a row's tokens so far: how many segments they start, and what the last one, still open, has.
template <class C>
struct Open {
  int32_t segments;
  int32_t length;  // 0: no token so far
  C folded;

  static __device__ Open nothing() { return {0, 0, 0}; }
};

template <Reduce kReduce, class C>
__device__ inline Open<C> then_open(const Open<C>& earlier, const Open<C>& later) {
  if (later.length == 0) return earlier;
  if (later.segments > 0 || earlier.length == 0) return {earlier.segments + later.segments, later.length, later.folded};
  return {earlier.segments, earlier.length + later.length, fold<kReduce>(earlier.folded, later.folded)};
}

// How segments end, besides the rule: whether their reward is a mean, and where the sign of every segment of the row
// goes, when someone needs them all (or null).
struct SegmentEnding {
  bool mean;
  int8_t* all_signs;
};

// One thread's tokens of a tile. A mean is a sum until a segment ends.
template <Reduce kReduce, class T, class C = compute_t<T>>
class SegmentTokens {
 public:
  __device__ SegmentTokens(const T* rewards, const bool* mask, const Row& row, int64_t first,
                           const SegmentRule<C>& rule)
      : first_(first),
        length_(row.length),
        rewards_(load_items(rewards + row.begin, first, row.length)),
        valid_(load_valid(mask, row.begin, first, row.length)),
        rule_(rule) {}

  __device__ Before<C> before() const {
    Before<C> result = Before<C>::nothing();
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!valid_.of[i]) continue;
      result.reward = {widen(rewards_.of[i]), true};
      result.transition = state_after(result.transition, i);
    }
    return result;
  }

  // `before`: all earlier tokens of the row, the initial state included.
  __device__ Open<C> open(const Before<C>& before) const {
    Open<C> result = Open<C>::nothing();
    each(before, [&](int i, bool starts, int, int) { add(result, i, starts); });
    return result;
  }

  // Writes the tokens' ids and mask, and the segments that end where one of the tokens starts another.
  __device__ void write(const Before<C>& before, Open<C> open, const SegmentRowOut& out,
                        const SegmentEnding& ending) const {
    Items<int32_t> ids;
    Items<bool> kept{};
#pragma unroll
    for (int i = 0; i < kItems; ++i) ids.of[i] = -1;
    each(before, [&](int i, bool starts, int state, int state_before) {
      if (starts) write_segment(open, state_before, rule_, out, ending);
      add(open, i, starts);
      ids.of[i] = open.segments - 1;
      kept.of[i] = keeps(state, rule_.sequence_sign, rule_.keep_neutral);
    });
    store_items(out.ids, first_, length_, ids);
    if (rule_.want_mask && rule_.use_trigger) store_items(out.mask, first_, length_, kept);
  }

  // `state`: the trigger's at the segment's tokens.
  static __device__ void write_segment(const Open<C>& open, int state, const SegmentRule<C>& rule,
                                       const SegmentRowOut& out, const SegmentEnding& ending) {
    const int32_t id = open.segments - 1;
    if (id < 0) return;
    const C reduced = ending.mean ? finish<Reduce::mean>(open.folded, open.length) : open.folded;
    const auto sign = static_cast<int8_t>(rule.use_trigger ? state : sign_of(reduced - rule.baseline));
    if (ending.all_signs != nullptr) ending.all_signs[id] = sign;
    if (id >= out.capacity) return;
    out.lengths[id] = open.length;
    out.rewards[id] = static_cast<float>(reduced);
    out.signs[id] = sign;
  }

 private:
  __device__ int state_after(int state, int i) const {
    return schmitt_step<C>(state, widen(rewards_.of[i]), rule_.low, rule_.high, rule_.hold);
  }

  // Calls body(i, starts, state, state before) at every valid token.
  template <class Body>
  __device__ void each(const Before<C>& before, const Body& body) const {
    Latest<C> previous = before.reward;
    int state = before.transition;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!valid_.of[i]) continue;
      const C reward = widen(rewards_.of[i]);
      const int next = state_after(state, i);
      const bool starts = starts_segment<C>(!previous.any, reward, previous.value, rule_.pivot_threshold, next, state);
      body(i, starts, next, state);
      state = next;
      previous = {reward, true};
    }
  }

  __device__ void add(Open<C>& open, int i, bool starts) const {
    const C reward = widen(rewards_.of[i]);
    open = starts ? Open<C>{open.segments + 1, 1, reward}
                  : Open<C>{open.segments, open.length + 1,
                            open.length == 0 ? reward : fold<kReduce>(open.folded, reward)};
  }

  const int64_t first_, length_;
  const Items<T> rewards_;
  const Items<bool> valid_;
  const SegmentRule<C>& rule_;
};

}  // namespace segkernel
