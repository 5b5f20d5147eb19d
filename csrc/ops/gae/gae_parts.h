// Generalized advantage estimation along a row in parts. An advantage is affine in the advantage after its part:
// A_t = gain_t + decay_t * A_after, with a decay of gamma * lam per step. The gains of all parts are computed side by
// side, then the first advantages of the parts from the last part on, and then the rest is added, which ends where the
// decay vanishes. A row of several parts always takes this way, so that results do not depend on the threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../../core/row_parts.h"
#include "gae_row.h"

namespace segkernel {

// base^steps without subnormal numbers, which are slow.
template <class C>
class Decay {
 public:
  explicit Decay(C base) : base_(base) {}

  C value() const { return value_; }
  void step() { value_ = normal(value_ * base_); }

  C after(int64_t steps) const {
    C result = 1;
    for (C power = base_; steps != 0; steps >>= 1, power = normal(power * power)) {
      if (steps & 1) result = normal(result * power);
    }
    return result;
  }

 private:
  static C normal(C value) { return std::abs(value) < std::numeric_limits<C>::min() ? 0 : value; }

  C base_;
  C value_ = 1;
};

// The share of an advantage after a part; a decay may have overflowed.
template <class C>
C carried(C decay, C after) {
  return after == 0 ? C{0} : decay * after;
}

template <class T, class ForEach, class C = compute_t<T>>
void gae_row_in_parts(const T* rewards, const T* values, const bool* mask, int64_t length, C gamma, C lam, C value_lam,
                      bool holes_are_steps, C* advantages, C* returns, const ForEach& for_each) {
  const int64_t parts = parts_of(length);
  if (parts == 1) {
    gae_part(rewards, values, mask, length, gamma, lam, value_lam, holes_are_steps, {}, C{0}, advantages, returns);
    return;
  }
  const auto is_step = [&](int64_t t) { return holes_are_steps || is_valid(mask, t); };

  // The position of each part's first step, or that of a later part: its value follows the part before.
  std::vector<int64_t> first_step(parts + 1, length);
  for_each(parts, [&](int64_t p) {
    const Part part = part_of(length, p);
    int64_t t = part.begin;
    while (t < part.end && !is_step(t)) ++t;
    first_step[p] = t == part.end ? length : t;
  });
  for (int64_t p = parts - 1; p >= 0; --p) first_step[p] = std::min(first_step[p], first_step[p + 1]);

  const auto compute = [&](int64_t p, const Advantages<C>& after) {
    const Part part = part_of(length, p);
    const int64_t next = first_step[p + 1];
    const C next_value = next < length && is_valid(mask, next) ? C{widen(values[next])} : C{0};
    return gae_part(rewards + part.begin, values + part.begin, mask == nullptr ? nullptr : mask + part.begin,
                    part.length(), gamma, lam, value_lam, holes_are_steps, after, next_value, advantages + part.begin,
                    returns + part.begin);
  };

  std::vector<Advantages<C>> first(parts + 1);  // gains, and then advantages
  std::vector<int64_t> steps(parts);
  for_each(parts, [&](int64_t p) {
    const Part part = part_of(length, p);
    first[p] = compute(p, {});
    steps[p] =
        mask == nullptr || holes_are_steps ? part.length() : std::count(mask + part.begin, mask + part.end, true);
  });
  for (int64_t p = parts - 2; p >= 0; --p) {
    const Advantages<C> after = first[p + 1];
    if (!std::isfinite(after.of_lam) || !std::isfinite(after.of_value_lam)) {
      first[p] = compute(p, after);
      continue;
    }
    first[p].of_lam += carried(Decay(gamma * lam).after(steps[p]), after.of_lam);
    first[p].of_value_lam += carried(Decay(gamma * value_lam).after(steps[p]), after.of_value_lam);
  }
  for_each(parts - 1, [&](int64_t p) {
    const Part part = part_of(length, p);
    const Advantages<C> after = first[p + 1];
    if (!std::isfinite(after.of_lam) || !std::isfinite(after.of_value_lam)) return;
    Decay of_lam(gamma * lam);
    Decay of_value_lam(gamma * value_lam);
    for (int64_t t = part.end - 1; t >= part.begin; --t) {
      if (!is_step(t)) continue;
      of_lam.step();
      of_value_lam.step();
      if (of_lam.value() == 0 && of_value_lam.value() == 0) return;
      if (!is_valid(mask, t)) continue;
      advantages[t] += carried(of_lam.value(), after.of_lam);
      returns[t] += carried(of_value_lam.value(), after.of_value_lam);
    }
  });
}

}  // namespace segkernel
