// Generalized advantage estimation along one row or a part of it on the host, last token first. The second recursion
// takes no extra time: each is bound by the latency of its own steps.
#pragma once

#include "../../core/inline.h"
#include "../../core/rows.h"
#include "gae.h"

namespace segkernel {

// `next`, `next_value`: advantages and value of the token after the part. Returns the advantages of its first token.
template <class T, class C = compute_t<T>>
SK_INLINE Advantages<C> gae_part(const T* rewards, const T* values, const bool* mask, int64_t length, C gamma, C lam,
                                 C value_lam, bool holes_are_steps, Advantages<C> next, C next_value, C* advantages,
                                 C* returns) {
  C of_lam = next.of_lam, of_value_lam = next.of_value_lam;
  for (int64_t t = length - 1; t >= 0; --t) {
    const bool valid = is_valid(mask, t);
    if (!valid) {
      advantages[t] = 0;
      returns[t] = 0;
      if (!holes_are_steps) continue;
    }
    const C reward = valid ? widen(rewards[t]) : C{0};
    const C value = valid ? widen(values[t]) : C{0};
    of_lam = gae_step(reward, value, next_value, of_lam, gamma, lam);
    of_value_lam = gae_step(reward, value, next_value, of_value_lam, gamma, value_lam);
    next_value = value;
    if (!valid) continue;
    advantages[t] = of_lam;
    returns[t] = of_value_lam + value;
  }
  return {of_lam, of_value_lam};
}

}  // namespace segkernel
