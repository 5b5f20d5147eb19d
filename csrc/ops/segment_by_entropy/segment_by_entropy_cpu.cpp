#include <tuple>

#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_by_entropy_row.h"

namespace segkernel {

std::tuple<Tensor, Tensor> segment_by_entropy_cpu(const Tensor& entropy, const OptionalTensor& mask, double threshold,
                                                  const OptionalTensor& row_threshold, int64_t min_length,
                                                  const OptionalTensor& cu_seqlens) {
  const RowsOf rows("entropy", entropy, cu_seqlens);
  const int64_t tokens = entropy.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  Tensor ids = rows.empty_tokens<int32_t>();
  Tensor counts = empty<int32_t>({rows->count});
  int32_t* id_out = mutable_data<int32_t>(ids);
  int32_t* count_out = mutable_data<int32_t>(counts);

  dispatch_floats("entropy", entropy.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = data<T>("entropy", entropy, tokens);
    const auto thresholds = per_row<compute_t<T>>("threshold", threshold, row_threshold, rows->count);
    for_each_row(rows->count, tokens, [&](int64_t b) {
      const Row row = (*rows)[b];
      count_out[b] = segment_by_entropy_row(in + row.begin, valid ? valid + row.begin : nullptr, row.length,
                                            thresholds[b], min_length, id_out + row.begin);
    });
  });
  return {ids, counts};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("segment_by_entropy", TORCH_BOX(&segkernel::segment_by_entropy_cpu));
}
