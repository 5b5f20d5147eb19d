// Normalization within groups: rows sorted by group, each group by one thread.
#include <algorithm>
#include <array>
#include <numeric>
#include <type_traits>
#include <vector>

#include "../../torch/dispatch.h"
#include "../../torch/outputs.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "group_normalize_arguments.h"

namespace segkernel {

namespace {

// Normalizes the rows of one group. With kPerSegment, the values of each segment index are a group of their own.
template <bool kPerSegment, class T, class C = compute_t<T>>
void normalize_group(const GroupNormalize<T>& all, const int64_t* rows, int64_t count) {
  std::conditional_t<kPerSegment, std::vector<Moments>, std::array<Moments, 1>> moments{};
  if constexpr (kPerSegment) moments.resize(all.segments);
  const auto for_each_value = [&](const auto& body) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = rows[i] * all.segments;
      const int64_t values = all.valid_values_of(rows[i]);
      for (int64_t k = 0; k < values; ++k) {
        body(moments[kPerSegment ? k : 0], static_cast<double>(widen(all.values[begin + k])), begin + k);
      }
    }
  };
  for_each_value([](Moments& group, double value, int64_t) {
    if (group.count++ == 0) group.first = value;
    group.add(value);
  });
  for (Moments& group : moments) group.finish_mean();
  if (all.scale) {
    for_each_value([](Moments& group, double value, int64_t) { group.add_square(value); });
    for (Moments& group : moments) group.finish_divisor(all.eps);
  }
  for (int64_t i = 0; i < count; ++i) std::fill_n(all.normalized + rows[i] * all.segments, all.segments, C{0});
  for_each_value([&](const Moments& group, double value, int64_t at) {
    all.normalized[at] = static_cast<C>(group.normalized(value));
  });
}

}  // namespace

Tensor group_normalize_cpu(const Tensor& values, const Tensor& counts, const Tensor& group, bool per_segment,
                           bool scale, double eps) {
  Tensor normalized;
  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const auto all = group_normalize_arguments<T>(values, counts, group, per_segment, scale, eps, {}, normalized);
    std::vector<int64_t> rows(all.rows);
    std::iota(rows.begin(), rows.end(), 0);
    std::stable_sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) { return all.groups[a] < all.groups[b]; });
    std::vector<int64_t> begins;
    for (int64_t i = 0; i < all.rows; ++i) {
      if (i == 0 || all.groups[rows[i]] != all.groups[rows[i - 1]]) begins.push_back(i);
    }
    const auto groups = static_cast<int64_t>(begins.size());
    begins.push_back(all.rows);
    const auto normalize = per_segment ? normalize_group<true, T> : normalize_group<false, T>;
    for_each_row(groups, values.numel(),
                 [&](int64_t g) { normalize(all, rows.data() + begins[g], begins[g + 1] - begins[g]); });
  });
  return normalized;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("group_normalize", TORCH_BOX(&segkernel::group_normalize_cpu));
}
