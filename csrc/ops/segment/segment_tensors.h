// The operator `segment`: from its arguments to plain pointers, for every backend.
#pragma once

#include <tuple>

#include "../../torch/arguments.h"
#include "../../torch/dispatch.h"
#include "../../torch/outputs.h"
#include "../../torch/rows.h"
#include "segment_params.h"

namespace segkernel {

// ids, counts, lengths, rewards, signs, mask.
using SegmentTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// `Backend` is a `Device`, made from the rewards. Its `rows` makes a `RowsOf`, its `run` computes the outputs.
// `pivot_threshold`, `delta` and `sequence_sign` are absent when neither their scalar nor their tensor is given.
template <class Backend>
SegmentTensors segment_tensors(const Tensor& rewards, const OptionalTensor& mask, std::optional<double> pivot_threshold,
                               const OptionalTensor& row_pivot_threshold, double baseline,
                               const OptionalTensor& row_baseline, std::optional<double> delta,
                               const OptionalTensor& row_delta, bool hold, int64_t initial,
                               const OptionalTensor& row_initial, int64_t reduce, std::optional<double> sequence_sign,
                               const OptionalTensor& row_sequence_sign, bool keep_neutral,
                               const OptionalTensor& cu_seqlens) {
  const Backend backend("rewards", rewards);
  const RowsOf rows = backend.rows("rewards", rewards, cu_seqlens);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, backend);
  const bool want_mask = sequence_sign.has_value() || row_sequence_sign.has_value();
  check_not_negative("pivot_threshold", PerRow<double>{pivot_threshold.value_or(0), nullptr}, 1);
  check_not_negative("delta", PerRow<double>{delta.value_or(0), nullptr}, 1);
  check_code("reduce", reduce, static_cast<int64_t>(Reduce::min));
  const auto initials = state_per_row("initial", initial, row_initial, rows->count, backend);

  const Tensor ids = rows.empty_tokens<int32_t>();
  const Tensor counts = empty<int32_t>({rows->count}, backend);
  const Tensor lengths = rows.empty_tokens<int32_t>();
  const Tensor segment_rewards = rows.empty_tokens<float>();
  const Tensor signs = rows.empty_tokens<int8_t>();
  const Tensor loss_mask = want_mask ? rows.empty_tokens<bool>() : empty<bool>({0}, backend);
  const SegmentOut out{.ids = mutable_data<int32_t>(ids),
                       .lengths = mutable_data<int32_t>(lengths),
                       .rewards = mutable_data<float>(segment_rewards),
                       .signs = mutable_data<int8_t>(signs),
                       .mask = want_mask ? mutable_data<bool>(loss_mask) : nullptr};

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
        .deltas = one_per_row(C{}, "delta", delta.value_or(0), row_delta),
        .baselines = one_per_row(C{}, "baseline", baseline, row_baseline),
        .initials = initials,
        .sequence_signs = one_per_row(double{}, "sequence_sign", sequence_sign.value_or(0), row_sequence_sign),
        .use_trigger = delta.has_value() || row_delta.has_value(),
        .hold = hold,
        .keep_neutral = keep_neutral,
    };
    backend.run(static_cast<Reduce>(reduce), data<T>("rewards", rewards, tokens, backend), valid, *rows, rules, out,
                mutable_data<int32_t>(counts));
  });
  return {ids, counts, lengths, segment_rewards, signs, loss_mask};
}

}  // namespace segkernel
