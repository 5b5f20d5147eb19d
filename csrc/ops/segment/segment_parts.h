// `segment` along a row in parts. Each part begins with a segment, so that the segments of a part are those of a row of
// its own, bit for bit; then they are moved together.
#pragma once

#include <vector>

#include "../hysteresis/hysteresis_parts.h"
#include "segment_host.h"

namespace segkernel {

// The position of the last valid token before each part of a row, or -1.
template <class ForEach>
std::vector<int64_t> last_valid_before_parts(const bool* mask, int64_t length, const ForEach& for_each) {
  std::vector<int64_t> last(parts_of(length), -1);
  for_each(last.size() - 1, [&](int64_t p) {
    const Part part = part_of(length, p);
    int64_t t = part.end - 1;
    while (t >= part.begin && !is_valid(mask, t)) --t;
    last[p + 1] = t < part.begin ? -1 : t;
  });
  for (size_t p = 1; p < last.size(); ++p) last[p] = std::max(last[p], last[p - 1]);
  return last;
}

// The first start of a segment in a part, or `part.end`, and the state of the trigger before it.
struct SegmentStart {
  int64_t position;
  int state;
};

// `last_valid`, `state`: the position of the last valid token before the part, or -1, and the trigger's state there.
template <class T, class C = compute_t<T>>
SegmentStart first_start(const T* rewards, const bool* mask, Part part, int64_t last_valid, int state,
                         const SegmentRule<C>& rule) {
  bool first = last_valid < 0;
  C previous = first ? C{0} : C{widen(rewards[last_valid])};
  for (int64_t t = part.begin; t < part.end; ++t) {
    if (!is_valid(mask, t)) continue;
    const C reward = widen(rewards[t]);
    const int next = schmitt_step(state, reward, rule.low, rule.high, rule.hold);
    if (starts_segment(first, reward, previous, rule.pivot_threshold, next, state)) return {t, state};
    first = false;
    state = next;
    previous = reward;
  }
  return {part.end, state};
}

// Returns the number of segments, and writes zeros past them.
template <class T, class ForEach, class C = compute_t<T>>
int32_t segment_row_in_parts(Reduce reduce, const T* rewards, const bool* mask, int64_t length,
                             const SegmentRule<C>& rule, const SegmentOut& out, const ForEach& for_each) {
  if constexpr (!ForEach::kInParallel) return segment_row_into(reduce, rewards, mask, length, rule, out);
  const int64_t parts = parts_of(length);
  const std::vector<int64_t> last_valid = last_valid_before_parts(mask, length, for_each);
  const std::vector<int> states = rule.use_trigger ? states_before_parts(rewards, mask, length, rule.low, rule.high,
                                                                         rule.initial, rule.hold, for_each)
                                                   : std::vector<int>(parts, 0);
  std::vector<SegmentStart> starts(parts + 1, {length, 0});
  starts[0] = {0, rule.initial};
  for_each(parts - 1, [&](int64_t p) {
    starts[p + 1] = first_start(rewards, mask, part_of(length, p + 1), last_valid[p + 1], states[p + 1], rule);
  });
  // A part without a start goes with the one before.
  for (int64_t p = 1; p < parts; ++p) {
    if (starts[p].position == part_of(length, p).end) starts[p].position = -1;
  }
  std::erase_if(starts, [](const SegmentStart& start) { return start.position < 0; });

  const auto runs = static_cast<int64_t>(starts.size()) - 1;
  std::vector<int32_t> counts(runs);
  for_each(runs, [&](int64_t p) {
    const auto [begin, state] = starts[p];
    SegmentRule<C> of_part = rule;
    of_part.initial = state;
    counts[p] = segment_row_into(reduce, rewards + begin, mask == nullptr ? nullptr : mask + begin,
                                 starts[p + 1].position - begin, of_part, out.from(begin));
  });

  std::vector<int32_t> earlier(runs + 1, 0);
  for (int64_t p = 0; p < runs; ++p) {
    earlier[p + 1] = earlier[p] + counts[p];
    const auto move_to = [&](auto* of_row) {
      auto* of_part = of_row + starts[p].position;
      std::move(of_part, of_part + counts[p], of_row + earlier[p]);
      std::fill(std::max(of_part, of_row + earlier[p + 1]), of_part + counts[p], 0);
    };
    if (starts[p].position == earlier[p]) continue;
    move_to(out.lengths);
    move_to(out.rewards);
    move_to(out.signs);
  }
  for_each(runs, [&](int64_t p) {
    if (earlier[p] == 0) return;
    for (int64_t t = starts[p].position; t < starts[p + 1].position; ++t) {
      out.ids[t] += out.ids[t] >= 0 ? earlier[p] : 0;
    }
  });
  return earlier[runs];
}

}  // namespace segkernel
