#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "detect_pivots_row.h"

namespace segkernel {

Tensor detect_pivots_cpu(const Tensor& rewards, const OptionalTensor& mask, double threshold,
                         const OptionalTensor& row_threshold, const OptionalTensor& cu_seqlens) {
  const RowsOf rows("rewards", rewards, cu_seqlens);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  Tensor pivots = rows.empty_tokens<bool>();
  bool* out = mutable_data<bool>(pivots);

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = data<T>("rewards", rewards, tokens);
    const auto thresholds = per_row<compute_t<T>>("threshold", threshold, row_threshold, rows->count);
    check_not_negative("threshold", thresholds, rows->count);
    for_each_row(rows->count, tokens, [&](int64_t b) {
      const Row row = (*rows)[b];
      detect_pivots_row(in + row.begin, valid ? valid + row.begin : nullptr, row.length, thresholds[b],
                        out + row.begin);
    });
  });
  return pivots;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("detect_pivots", TORCH_BOX(&segkernel::detect_pivots_cpu));
}
