// `segment` along one row on the host: chooses the kernel.
#pragma once

#include <algorithm>

#include "../../simd/isa.h"
#include "segment_simd.h"

namespace segkernel {

inline const KernelsByDtype<SegmentKernel>& segment_kernels() {
#if defined(__x86_64__)
  if (chosen_isa() == Isa::avx512) return kSegmentAvx512;
  if (chosen_isa() == Isa::avx2) return kSegmentAvx2;
#endif
  return kSegmentBaseline;
}

// Returns the number of segments, and writes zeros past them. float64 rewards: the scalar definition.
template <class T, class C = compute_t<T>>
int32_t segment_row_into(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                         const SegmentOut& out) {
  int32_t count;
  if constexpr (std::is_same_v<T, double>) {
    count = dispatch_reduce(reduce,
                            [&]<Reduce kReduce>() { return segment_row<kReduce>(rewards, mask, length, rule, out); });
  } else {
    count = std::get<SegmentKernel<T>>(segment_kernels())(reduce, rewards, mask, length, rule, out);
  }
  std::fill(out.lengths + count, out.lengths + length, 0);
  std::fill(out.rewards + count, out.rewards + length, 0.0f);
  std::fill(out.signs + count, out.signs + length, int8_t{0});
  return count;
}

}  // namespace segkernel
