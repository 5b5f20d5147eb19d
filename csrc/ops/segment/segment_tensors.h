// `segment` from the operator's arguments to plain pointers, for every backend.
#pragma once

#include <tuple>

#include "../../torch/tensors.h"
#include "segment_params.h"

namespace segkernel {

using SegmentTensors = std::tuple<StableIValue, StableIValue, StableIValue, StableIValue, StableIValue, StableIValue>;

// `Backend(argument, tensor)` is a `Device` with two functions: `rows` makes a `RowsOf`, `run` does the work.
// `pivot_threshold`, `delta` and `sequence_sign` are absent when neither the number nor the rows are given.
template <class Backend>
SegmentTensors segment_tensors(const Tensor& rewards, const OptionalTensor& mask, std::optional<double> pivot_threshold,
                               const OptionalTensor& row_pivot_threshold, double baseline,
                               const OptionalTensor& row_baseline, std::optional<double> delta,
                               const OptionalTensor& row_delta, const OptionalTensor& row_initial,
                               int64_t packed_options, std::optional<double> sequence_sign,
                               const OptionalTensor& row_sequence_sign, const OptionalTensor& cu_seqlens,
                               std::optional<int64_t> max_segments) {
  const Backend backend("rewards", rewards);
  const RowsOf rows = backend.rows("rewards", rewards, cu_seqlens);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, backend);
  const bool packed = rows->packed();
  const bool want_mask = sequence_sign.has_value() || row_sequence_sign.has_value();
  const int64_t kept_segments = packed ? 0 : max_segments.value_or(rows->length);
  check(kept_segments >= 0, "max_segments", "expected >= 0, got ", kept_segments);
  check_not_negative("pivot_threshold", PerRow<double>{pivot_threshold.value_or(0), nullptr}, 1);
  check_not_negative("delta", PerRow<double>{delta.value_or(0), nullptr}, 1);
  const SegmentOptions options(packed_options);
  check(options.reduce <= Reduce::min, "options", "unknown reduction in ", packed_options);

  const auto per_token = [&]<class E>(E) {
    return packed ? Output<E>({tokens}, backend) : Output<E>({rows->count, rows->length}, backend);
  };
  const auto per_segment = [&]<class E>(E) {
    return packed ? Output<E>({tokens}, backend) : Output<E>({rows->count, kept_segments}, backend);
  };
  auto ids = per_token(int32_t{});
  auto counts = Output<int32_t>({rows->count}, backend);
  auto lengths = per_segment(int32_t{});
  auto segment_rewards = per_segment(float{});
  auto signs = per_segment(int8_t{});
  auto loss_mask = want_mask ? per_token(bool{}) : Output<bool>({0}, backend);
  const SegmentOut out{.ids = ids.data(),
                       .counts = counts.data(),
                       .lengths = lengths.data(),
                       .rewards = segment_rewards.data(),
                       .signs = signs.data(),
                       .mask = want_mask ? loss_mask.data() : nullptr,
                       .packed = packed,
                       .capacity = kept_segments};

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    using Rules = SegmentRules<C>;
    const auto one_per_row = [&]<class E>(E, const char* name, double value, const OptionalTensor& values) {
      return per_row<E>(name, value, values, rows->count, backend);
    };
    const Rules rules{
        .pivot_thresholds =
            one_per_row(C{}, "pivot_threshold", pivot_threshold.value_or(Rules::kInfinity), row_pivot_threshold),
        .use_trigger = delta.has_value() || row_delta.has_value(),
        .deltas = one_per_row(C{}, "delta", delta.value_or(0), row_delta),
        .baselines = one_per_row(C{}, "baseline", baseline, row_baseline),
        .initials = one_per_row(int8_t{}, "initial", options.initial, row_initial),
        .hold = options.hold,
        .want_mask = want_mask,
        .sequence_signs = one_per_row(double{}, "sequence_sign", sequence_sign.value_or(0), row_sequence_sign),
        .keep_neutral = options.keep_neutral,
    };
    backend.run(options.reduce, data<T>("rewards", rewards, tokens, backend), valid, *rows, rules, out);
  });
  return {ids.give_away(),   counts.give_away(),   lengths.give_away(), segment_rewards.give_away(),
          signs.give_away(), loss_mask.give_away()};
}

template <class Backend>
SegmentTensors segment_tensors_by_numbers(const Tensor& rewards, const OptionalTensor& mask,
                                          std::optional<double> pivot_threshold, double baseline,
                                          std::optional<double> delta, int64_t packed_options,
                                          std::optional<double> sequence_sign, const OptionalTensor& row_sequence_sign,
                                          const OptionalTensor& cu_seqlens) {
  return segment_tensors<Backend>(rewards, mask, pivot_threshold, {}, baseline, {}, delta, {}, {}, packed_options,
                                  sequence_sign, row_sequence_sign, cu_seqlens, {});
}

}  // namespace segkernel
