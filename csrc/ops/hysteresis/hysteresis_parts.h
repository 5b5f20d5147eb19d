// The Schmitt trigger along a row in parts: the state before each part is a scan over the transitions of the parts.
#pragma once

#include <vector>

#include "../../core/row_parts.h"
#include "../../core/rows.h"
#include "hysteresis_row.h"

namespace segkernel {

// The transition of a part, from its last token that decides it.
template <class T, class C = compute_t<T>>
int transition_of(const T* rewards, const bool* mask, Part part, C low, C high, bool hold) {
  for (int64_t t = part.end - 1; t >= part.begin; --t) {
    if (!is_valid(mask, t)) continue;
    const int state = schmitt_step<C>(kUnchanged, widen(rewards[t]), low, high, hold);
    if (state != kUnchanged) return state;
  }
  return kUnchanged;
}

// The state before each part of a row. `for_each` calls a function for the indices of the parts.
template <class T, class ForEach, class C = compute_t<T>>
std::vector<int> states_before_parts(const T* rewards, const bool* mask, int64_t length, C low, C high, int initial,
                                     bool hold, const ForEach& for_each) {
  std::vector<int> states(parts_of(length), kUnchanged);
  for_each(states.size() - 1,
           [&](int64_t p) { states[p + 1] = transition_of(rewards, mask, part_of(length, p), low, high, hold); });
  states[0] = initial;
  for (size_t p = 1; p < states.size(); ++p) states[p] = then_transition(states[p - 1], states[p]);
  return states;
}

template <class T, class ForEach, class C = compute_t<T>>
void hysteresis_row_in_parts(const T* rewards, const bool* mask, int64_t length, C low, C high, int initial, bool hold,
                             int8_t* states, const ForEach& for_each) {
  if constexpr (!ForEach::kInParallel) return hysteresis_row(rewards, mask, length, low, high, initial, hold, states);
  const auto before = states_before_parts(rewards, mask, length, low, high, initial, hold, for_each);
  for_each(parts_of(length), [&](int64_t p) {
    const Part part = part_of(length, p);
    hysteresis_row(rewards + part.begin, mask == nullptr ? nullptr : mask + part.begin, part.length(), low, high,
                   before[p], hold, states + part.begin);
  });
}

}  // namespace segkernel
