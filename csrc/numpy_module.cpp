// NumPy module: the operators' row loops on NumPy arrays, without torch or copies, with the GIL released.
//
// segkernel/numpy.py checks the arguments and allocates the outputs; half-precision arrays are passed as uint16.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "core/errors.h"
#include "ops/detect_pivots/detect_pivots_row.h"
#include "ops/discounted_sum/discounted_sum_row.h"
#include "ops/gae/gae_parts.h"
#include "ops/hysteresis/hysteresis_row.h"
#include "ops/redistribute/redistribute_row.h"
#include "ops/segment/segment_host.h"
#include "ops/segment_by_entropy/segment_by_entropy_row.h"
#include "ops/segment_by_mask/segment_by_mask_row.h"
#include "ops/select_tokens/select_tokens_host.h"

namespace py = pybind11;

namespace segkernel {
namespace {

using Array = py::array;

template <class T>
const T* in(const py::object& array) {
  return array.is_none() ? nullptr : static_cast<const T*>(py::reinterpret_borrow<Array>(array).data());
}

template <class T>
T* out(const py::object& array) {
  return array.is_none() ? nullptr : static_cast<T*>(py::reinterpret_borrow<Array>(array).mutable_data());
}

template <class T>
PerRow<T> per_row(double value, const py::object& rows) {
  return {static_cast<T>(value), in<T>(rows)};
}

Rows rows_of(const Array& tokens, const py::object& offsets) {
  if (offsets.is_none()) return {tokens.shape(0), tokens.shape(1), {}};
  const Offsets cu_seqlens{.as_int64 = in<int64_t>(offsets)};
  const int64_t count = py::reinterpret_borrow<Array>(offsets).shape(0) - 1;
  check_cu_seqlens("offsets", cu_seqlens, count, tokens.size());
  return {count, tokens.size(), cu_seqlens};
}

// Calls `body` with a value of the element type.
template <class Body>
void dispatch(const std::string& dtype, const Body& body) {
  if (dtype == "float64") return body(double{});
  if (dtype == "float32") return body(float{});
  if (dtype == "float16") return body(float16{});
  return body(bfloat16{});
}

template <class Body>
void for_each_row(const Rows& rows, const bool* mask, const Body& body) {
  const py::gil_scoped_release release;
  for (int64_t b = 0; b < rows.count; ++b) {
    const Row row = rows[b];
    body(b, row, mask == nullptr ? nullptr : mask + row.begin);
  }
}

void detect_pivots(const std::string& dtype, const Array& rewards, const py::object& mask, double threshold,
                   const py::object& row_threshold, const py::object& offsets, const py::object& pivots) {
  const Rows rows = rows_of(rewards, offsets);
  auto* result = out<bool>(pivots);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* data = in<T>(rewards);
    const auto thresholds = per_row<compute_t<T>>(threshold, row_threshold);
    check_not_negative("threshold", thresholds, rows.count);
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      detect_pivots_row(data + row.begin, valid, row.length, thresholds[b], result + row.begin);
    });
  });
}

void hysteresis(const std::string& dtype, const Array& rewards, const py::object& mask, double low,
                const py::object& row_low, double high, const py::object& row_high, int initial,
                const py::object& row_initial, bool hold, const py::object& offsets, const py::object& states) {
  const Rows rows = rows_of(rewards, offsets);
  const auto initials = per_row<int8_t>(initial, row_initial);
  check_states("initial", initials, rows.count);
  auto* result = out<int8_t>(states);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* data = in<T>(rewards);
    const auto lows = per_row<compute_t<T>>(low, row_low);
    const auto highs = per_row<compute_t<T>>(high, row_high);
    check_ordered(lows, highs, rows.count);
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      hysteresis_row(data + row.begin, valid, row.length, lows[b], highs[b], initials[b], hold, result + row.begin);
    });
  });
}

void segment(const std::string& dtype, const Array& rewards, const py::object& mask, double pivot_threshold,
             const py::object& row_pivot_threshold, double baseline, const py::object& row_baseline, bool use_trigger,
             double delta, const py::object& row_delta, bool hold, int initial, const py::object& row_initial,
             int reduce, double sequence_sign, const py::object& row_sequence_sign, bool keep_neutral,
             const py::object& offsets, const py::object& ids, const py::object& counts, const py::object& lengths,
             const py::object& segment_rewards, const py::object& signs, const py::object& loss_mask) {
  const Rows rows = rows_of(rewards, offsets);
  const auto initials = per_row<int8_t>(initial, row_initial);
  check_states("initial", initials, rows.count);
  const SegmentOut all{.ids = out<int32_t>(ids),
                       .lengths = out<int32_t>(lengths),
                       .rewards = out<float>(segment_rewards),
                       .signs = out<int8_t>(signs),
                       .mask = out<bool>(loss_mask)};
  auto* count_out = out<int32_t>(counts);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const auto* data = in<T>(rewards);
    const SegmentRules<C> rules{
        .pivot_thresholds = per_row<C>(pivot_threshold, row_pivot_threshold),
        .deltas = per_row<C>(delta, row_delta),
        .baselines = per_row<C>(baseline, row_baseline),
        .initials = initials,
        .sequence_signs = per_row<double>(sequence_sign, row_sequence_sign),
        .use_trigger = use_trigger,
        .hold = hold,
        .keep_neutral = keep_neutral,
    };
    check_not_negative("pivot_threshold", rules.pivot_thresholds, rows.count);
    check_not_negative("delta", rules.deltas, rows.count);
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      count_out[b] = segment_row_into(static_cast<Reduce>(reduce), data + row.begin, valid, row.length, rules[b],
                                      all.from(row.begin));
    });
  });
}

void segment_by_entropy(const std::string& dtype, const Array& entropy, const py::object& mask, double threshold,
                        const py::object& row_threshold, int64_t min_length, const py::object& offsets,
                        const py::object& ids, const py::object& counts) {
  const Rows rows = rows_of(entropy, offsets);
  auto* id_out = out<int32_t>(ids);
  auto* count_out = out<int32_t>(counts);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* data = in<T>(entropy);
    const auto thresholds = per_row<compute_t<T>>(threshold, row_threshold);
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      count_out[b] =
          segment_by_entropy_row(data + row.begin, valid, row.length, thresholds[b], min_length, id_out + row.begin);
    });
  });
}

void select_tokens(const std::string& dtype, const Array& values, const py::object& mask, bool by_fraction,
                   double fraction, const py::object& row_fraction, int64_t count, const py::object& row_count,
                   bool largest, bool whole_batch, bool round_up, const py::object& offsets,
                   const py::object& selected) {
  Rows rows = rows_of(values, offsets);
  const SelectionSize size{.by_fraction = by_fraction,
                           .fractions = per_row<double>(fraction, row_fraction),
                           .counts = {count, in<int64_t>(row_count)},
                           .round_up = round_up};
  if (whole_batch) rows = {rows.count == 0 ? 0 : 1, values.size(), {}};
  check_share("fraction", size.fractions, rows.count);
  check_not_negative("count", size.counts, rows.count);
  auto* result = out<bool>(selected);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* data = in<T>(values);
    std::vector<RankKey<compute_t<T>>> keys;
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      const auto k_of = [&](int64_t n) { return size.of(b, n); };
      select_row(data + row.begin, valid, row.length, largest, k_of, keys, result + row.begin);
    });
  });
}

void redistribute(const std::string& dtype, const Array& prefix_scores, const py::object& mask, double initial,
                  const py::object& row_initial, const py::object& sequence_rewards, double mix,
                  const py::object& row_mix, const py::object& offsets, const py::object& rewards) {
  const Rows rows = rows_of(prefix_scores, offsets);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const auto* data = in<T>(prefix_scores);
    auto* result = out<C>(rewards);
    const auto initials = per_row<C>(initial, row_initial);
    const auto mixes = per_row<C>(mix, row_mix);
    const auto* sparse = in<C>(sequence_rewards);
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      redistribute_row(data + row.begin, valid, row.length, initials[b], mixes[b],
                       sparse == nullptr ? nullptr : sparse + b, result + row.begin);
    });
  });
}

void gae(const std::string& dtype, const Array& rewards, const Array& values, const py::object& mask, double gamma,
         const py::object& row_gamma, double lam, const py::object& row_lam, double value_lam,
         const py::object& row_value_lam, bool holes_are_steps, const py::object& offsets, const py::object& advantages,
         const py::object& returns) {
  const Rows rows = rows_of(rewards, offsets);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const auto* reward_in = in<T>(rewards);
    const auto* value_in = in<T>(values);
    auto* advantage_out = out<C>(advantages);
    auto* return_out = out<C>(returns);
    const auto gammas = per_row<C>(gamma, row_gamma);
    const auto lams = per_row<C>(lam, row_lam);
    const auto value_lams = per_row<C>(value_lam, row_value_lam);
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      gae_row_in_parts(reward_in + row.begin, value_in + row.begin, valid, row.length, gammas[b], lams[b],
                       value_lams[b], holes_are_steps, advantage_out + row.begin, return_out + row.begin,
                       OneAfterTheOther{});
    });
  });
}

void discounted_sum(const std::string& dtype, const Array& values, const py::object& mask, double discount,
                    const py::object& row_discount, const py::object& offsets, const py::object& sums) {
  const Rows rows = rows_of(values, offsets);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const auto* data = in<T>(values);
    auto* result = out<C>(sums);
    const auto discounts = per_row<C>(discount, row_discount);
    for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
      discounted_sum_row(data + row.begin, valid, row.length, discounts[b], false, result + row.begin);
    });
  });
}

void segment_by_mask(const Array& mask, const py::object& offsets, const py::object& ids, const py::object& counts) {
  const Rows rows = rows_of(mask, offsets);
  auto* id_out = out<int32_t>(ids);
  auto* count_out = out<int32_t>(counts);
  for_each_row(rows, in<bool>(mask), [&](int64_t b, Row row, const bool* valid) {
    count_out[b] = segment_by_mask_row(valid, row.length, id_out + row.begin);
  });
}

}  // namespace
}  // namespace segkernel

PYBIND11_MODULE(_numpy, module) {
  module.def("detect_pivots", &segkernel::detect_pivots);
  module.def("hysteresis", &segkernel::hysteresis);
  module.def("segment", &segkernel::segment);
  module.def("segment_by_entropy", &segkernel::segment_by_entropy);
  module.def("select_tokens", &segkernel::select_tokens);
  module.def("redistribute", &segkernel::redistribute);
  module.def("gae", &segkernel::gae);
  module.def("discounted_sum", &segkernel::discounted_sum);
  module.def("segment_by_mask", &segkernel::segment_by_mask);
}
