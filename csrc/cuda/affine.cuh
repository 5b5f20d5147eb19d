// Scan state of linear recurrences: affine functions, which compose associatively.
#pragma once

#include <cuda_runtime.h>

namespace segkernel {

// The affine function x -> decay * x + gain.
template <class C>
struct Affine {
  C decay;
  C gain;

  __device__ C operator()(C x) const { return decay * x + gain; }
};

// `first` is applied first.
template <class C>
__device__ Affine<C> compose(const Affine<C>& first, const Affine<C>& second) {
  return {second.decay * first.decay, second(first.gain)};
}

}  // namespace segkernel
