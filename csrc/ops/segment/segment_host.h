// `segment` along one row on the host: picks the loop for it.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../../core/valid_span.h"
#include "../../simd/isa.h"
#include "segment_row.h"
#include "segment_vectorised.h"

namespace segkernel {

// The vectorised loop, or null where this processor or element type has none.
template <class T>
SegmentVectorised<T> segment_vectorised_kernel() {
#if defined(__x86_64__)
  const auto of_type = [](const SegmentKernels& kernels) -> SegmentVectorised<T> {
    if constexpr (std::is_same_v<T, float>) return kernels.of_float;
    if constexpr (std::is_same_v<T, bfloat16>) return kernels.of_bfloat16;
    if constexpr (std::is_same_v<T, float16>) return kernels.of_float16;
  };
  if (chosen_isa_compresses_bytes()) return of_type(kSegmentAvx512Vbmi2);
  if (chosen_isa() >= Isa::avx2) return of_type(kSegmentAvx2);
#endif
  return nullptr;
}

template <class T, class C = compute_t<T>>
int32_t segment_one_by_one(Reduce reduce, const T* rewards, const bool* mask, int64_t length,
                           const SegmentRule<C>& rule, SegmentRowOut out) {
  return dispatch_reduce(reduce, [&]<Reduce kReduce>() {
    return mask ? segment_row<kReduce, true>(rewards, mask, length, rule, out)
                : segment_row<kReduce, false>(rewards, mask, length, rule, out);
  });
}

// Padding before and after the valid tokens is not the loop's business.
template <class T>
int32_t segment_vectorised(SegmentVectorised<T> kernel, Reduce reduce, const T* rewards, const bool* mask,
                           int64_t length, const SegmentRule<float>& rule, const SegmentRowOut& out) {
  const auto span = span_without_holes(mask, length);
  if (!span.has_value()) return kernel(reduce, rewards, mask, length, rule, out);
  const auto [begin, end] = *span;
  SegmentRowOut from_begin = out;
  from_begin.ids += begin;
  std::fill(out.ids, out.ids + begin, -1);
  std::fill(out.ids + end, out.ids + length, -1);
  if (rule.want_mask) {
    from_begin.mask += begin;
    std::fill(out.mask, out.mask + begin, false);
    std::fill(out.mask + end, out.mask + length, false);
  }
  return kernel(reduce, rewards + begin, nullptr, end - begin, rule, from_begin);
}

template <class T, class C = compute_t<T>>
int32_t segment_whole_row(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                          SegmentRowOut out) {
  if constexpr (std::is_same_v<C, float>) {
    if (const auto kernel = segment_vectorised_kernel<T>(); kernel != nullptr) {
      return segment_vectorised(kernel, reduce, rewards, mask, length, rule, out);
    }
  }
  const int32_t count = segment_one_by_one(reduce, rewards, mask, length, rule, out);
  if (rule.want_mask) {
    for (int64_t t = 0; t < length; ++t) {
      out.mask[t] = is_valid(mask, t) && keeps(out.signs[out.ids[t]], rule.sequence_sign, rule.keep_neutral);
    }
  }
  return count;
}

// Zeros past the row's count; segments past `out.capacity` are left out.
template <class T, class C = compute_t<T>>
int32_t segment_row_into(Reduce reduce, const T* rewards, const bool* mask, int64_t length, const SegmentRule<C>& rule,
                         const SegmentRowOut& out) {
  int64_t written;
  int32_t count;
  if (length <= out.capacity) {
    count = segment_whole_row(reduce, rewards, mask, length, rule, out);
    written = count;
  } else {
    // A row can have as many segments as tokens: with less room than that, it is worked out beside the output.
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
