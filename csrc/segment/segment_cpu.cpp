#include <tuple>

#include "../tensors.h"
#include "segment_into.h"

namespace segkernel {

using SegmentTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// `pivot_threshold`, `delta` and `sequence_sign` are absent when neither the number nor the rows are given.
SegmentTensors segment_cpu(const Tensor& rewards, const OptionalTensor& mask, std::optional<double> pivot_threshold,
                           const OptionalTensor& row_pivot_threshold, double baseline,
                           const OptionalTensor& row_baseline, std::optional<double> delta,
                           const OptionalTensor& row_delta, bool hold, int64_t initial,
                           const OptionalTensor& row_initial, int64_t reduce, std::optional<double> sequence_sign,
                           const OptionalTensor& row_sequence_sign, bool keep_neutral, const OptionalTensor& cu_seqlens,
                           std::optional<int64_t> max_segments) {
  const RowsOf rows("rewards", rewards, cu_seqlens);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  const bool packed = rewards.dim() == 1;
  const bool use_pivots = pivot_threshold.has_value() || row_pivot_threshold.has_value();
  const bool use_trigger = delta.has_value() || row_delta.has_value();
  const bool want_mask = sequence_sign.has_value() || row_sequence_sign.has_value();
  const int64_t kept_segments = packed ? 0 : max_segments.value_or(rows->length);
  check(kept_segments >= 0, "max_segments", "expected >= 0, got ", kept_segments);
  check(reduce >= 0 && reduce <= static_cast<int64_t>(Reduce::min), "reduce", "unknown code ", reduce);
  const auto initials = per_row<int8_t>("initial", static_cast<double>(initial), row_initial, rows->count);
  check_states("initial", initials, rows->count);
  const auto sequence_signs =
      per_row<double>("sequence_sign", sequence_sign.value_or(0), row_sequence_sign, rows->count);

  const auto per_segment = [&]<class E>(E) {
    return packed ? empty<E>({tokens}) : empty<E>({rows->count, kept_segments});
  };
  Tensor ids = rows.empty_tokens<int32_t>();
  Tensor counts = empty<int32_t>({rows->count});
  Tensor lengths = per_segment(int32_t{});
  Tensor segment_rewards = per_segment(float{});
  Tensor signs = per_segment(int8_t{});
  Tensor loss_mask = want_mask ? rows.empty_tokens<bool>() : empty<bool>({0});
  const SegmentRowOut all{mutable_data<int32_t>(ids), mutable_data<int32_t>(lengths),
                          mutable_data<float>(segment_rewards), mutable_data<int8_t>(signs),
                          mutable_data<bool>(loss_mask)};
  int32_t* count_out = mutable_data<int32_t>(counts);

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("rewards", rewards, tokens);
    const auto thresholds =
        per_row<C>("pivot_threshold", pivot_threshold.value_or(0), row_pivot_threshold, rows->count);
    const auto deltas = per_row<C>("delta", delta.value_or(0), row_delta, rows->count);
    const auto baselines = per_row<C>("baseline", baseline, row_baseline, rows->count);
    check_not_negative("pivot_threshold", thresholds, rows->count);
    check_not_negative("delta", deltas, rows->count);

    for_each_row(rows->count, tokens, [&](int64_t b) {
      const Row row = (*rows)[b];
      const C threshold = thresholds[b];
      const C row_offset = deltas[b];
      const int sequence = sign_of(sequence_signs[b]);
      const auto rule =
          SegmentRule<C>::make(use_pivots ? &threshold : nullptr, use_trigger ? &row_offset : nullptr, baselines[b],
                               initials[b], hold, want_mask ? &sequence : nullptr, keep_neutral);
      const int64_t first_segment = packed ? row.begin : b * kept_segments;
      count_out[b] = segment_row_into(static_cast<Reduce>(reduce), in + row.begin, valid ? valid + row.begin : nullptr,
                                      row.length, rule,
                                      {all.ids + row.begin, all.lengths + first_segment, all.rewards + first_segment,
                                       all.signs + first_segment, want_mask ? all.mask + row.begin : nullptr},
                                      packed ? row.length : kept_segments);
    });
  });
  return {ids, counts, lengths, segment_rewards, signs, loss_mask};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) { library.impl("segment", TORCH_BOX(&segkernel::segment_cpu)); }
