// `segment` along one row on the host: chooses the kernel, and applies `max_segments`.
#pragma once

#include <algorithm>
#include <vector>

#include "../../simd/isa.h"
#include "segment_simd.h"

namespace segkernel {

inline const KernelsByDtype<SegmentKernel>& segment_kernels() {
#if defined(__x86_64__)
  if (chosen_isa() == Isa::avx512) return kSegmentAvx512;
  if (chosen_isa() == Isa::avx2) return kSegmentAvx2;
#endif
  return kSegmentSimd;
}

// float64 rewards: the scalar definition.
inline int32_t segment_whole_row(Reduce reduce, const double* rewards, const bool* mask, int64_t length,
                                 const SegmentRule<double>& rule, const SegmentRowOut& out) {
  return dispatch_reduce(reduce,
                         [&]<Reduce kReduce>() { return segment_row<kReduce>(rewards, mask, length, rule, out); });
}

template <class T>
int32_t segment_whole_row(Reduce reduce, const T* rewards, const bool* mask, int64_t length,
                          const SegmentRule<float>& rule, const SegmentRowOut& out) {
  return segment_kernels().of<T>()(reduce, rewards, mask, length, rule, out);
}

// Returns the number of segments. Writes zeros past them, and leaves out those past `out.capacity`.
template <class T, class C = compute_t<T>>
int32_t segment_row_into(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                         const SegmentRowOut& out) {
  int64_t written;
  int32_t count;
  if (length <= out.capacity) {
    count = segment_whole_row(reduce, rewards, mask, length, rule, out);
    written = count;
  } else {
    // A row can have as many segments as tokens, for which `out` has no room.
    std::vector<int32_t> lengths(length);
    std::vector<float> segment_rewards(length);
    std::vector<int8_t> signs(length);
    count = segment_whole_row(reduce, rewards, mask, length, rule,
                              {out.ids, lengths.data(), segment_rewards.data(), signs.data(), out.mask, length});
    written = std::min<int64_t>(count, out.capacity);
    std::copy_n(lengths.begin(), written, out.lengths);
    std::copy_n(segment_rewards.begin(), written, out.rewards);
    std::copy_n(signs.begin(), written, out.signs);
  }
  std::fill(out.lengths + written, out.lengths + out.capacity, 0);
  std::fill(out.rewards + written, out.rewards + out.capacity, 0.0f);
  std::fill(out.signs + written, out.signs + out.capacity, int8_t{0});
  return count;
}

}  // namespace segkernel
