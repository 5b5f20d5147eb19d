#include "../../torch/parallel_parts.h"
#include "../../torch/registration.h"
#include "segment_parts.h"
#include "segment_tensors.h"

namespace segkernel {

struct SegmentOnCpu : Device {
  SegmentOnCpu(const char*, const Tensor&) {}

  static RowsOf rows(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens) {
    return {argument, tokens, cu_seqlens};
  }

  template <class T>
  static void run(Reduce reduce, const T* rewards, const bool* mask, const Rows& rows,
                  const SegmentRules<compute_t<T>>& rules, const SegmentOut& out, int32_t* counts) {
    check_not_negative("pivot_threshold", rules.pivot_thresholds, rows.count);
    check_not_negative("delta", rules.deltas, rows.count);
    check_states("initial", rules.initials, rows.count);
    const int64_t tokens = rows.packed() ? rows.length : rows.count * rows.length;
    for_each_row_in_parts(rows, tokens, [&](int64_t b, const auto& for_each) {
      const Row row = rows[b];
      counts[b] = segment_row_in_parts(reduce, rewards + row.begin, mask ? mask + row.begin : nullptr, row.length,
                                       rules[b], out.from(row.begin), for_each);
    });
  }
};

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("segment", TORCH_BOX(&segkernel::segment_tensors<segkernel::SegmentOnCpu>));
}
