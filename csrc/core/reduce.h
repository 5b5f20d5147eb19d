// Reductions over the tokens of a segment: fold one after another, then finish.
#pragma once

#include <limits>

#include "dtypes.h"
#include "inline.h"

namespace segkernel {

enum class Reduce : int { sum, mean, last, max, min };

// Calls `body` with the reduction as its template argument.
template <class Body>
auto dispatch_reduce(Reduce reduce, const Body& body) {
  if (reduce == Reduce::mean) return body.template operator()<Reduce::mean>();
  if (reduce == Reduce::last) return body.template operator()<Reduce::last>();
  if (reduce == Reduce::max) return body.template operator()<Reduce::max>();
  if (reduce == Reduce::min) return body.template operator()<Reduce::min>();
  return body.template operator()<Reduce::sum>();
}

// Folds one more token of the same segment; NaN rewards stay NaN. `C` is a scalar or a vector of the compilers'
// extension. Which of two rewards is larger is unpredictable, so the condition is computed without short-circuit and
// selects.
template <Reduce kReduce, class C>
SK_INLINE C fold(C accumulated, C reward) {
  if constexpr (kReduce == Reduce::last) return reward;
  if constexpr (kReduce == Reduce::sum || kReduce == Reduce::mean) return accumulated + reward;
  if constexpr (kReduce == Reduce::max) {
    return (accumulated > reward) | (accumulated != accumulated) ? accumulated : reward;
  }
  return (accumulated < reward) | (accumulated != accumulated) ? accumulated : reward;
}

// Identity element of the reduction: -0.0 for sums, so that a sum of -0.0 stays -0.0. `last` has no identity element.
template <Reduce kReduce, class C>
SK_HOST_DEVICE inline C fold_identity() {
  constexpr C kInfinity = std::numeric_limits<C>::infinity();
  return kReduce == Reduce::max ? -kInfinity : kReduce == Reduce::min ? kInfinity : -C{0};
}

template <Reduce kReduce, class C>
SK_INLINE C finish(C accumulated, int length) {
  return kReduce == Reduce::mean ? accumulated / static_cast<C>(length) : accumulated;
}

}  // namespace segkernel
