#include <tuple>

#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_by_mask.h"

namespace segkernel {

std::tuple<Tensor, Tensor> segment_by_mask_cpu(const Tensor& mask, const OptionalTensor& cu_seqlens) {
  const RowsOf rows("mask", mask, cu_seqlens);
  const int64_t tokens = mask.numel();
  const bool* in = data<bool>("mask", mask, tokens);
  Tensor ids = rows.empty_tokens<int32_t>();
  Tensor counts = empty<int32_t>({rows->count});
  int32_t* id_out = mutable_data<int32_t>(ids);
  int32_t* count_out = mutable_data<int32_t>(counts);

  for_each_row(rows->count, tokens, [&](int64_t b) {
    const Row row = (*rows)[b];
    const bool* valid = in + row.begin;
    int32_t runs = 0;
    for (int64_t t = 0; t < row.length; ++t) {
      runs += starts_run(valid, t);
      id_out[row.begin + t] = is_valid(valid, t) ? runs - 1 : -1;
    }
    count_out[b] = runs;
  });
  return {ids, counts};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("segment_by_mask", TORCH_BOX(&segkernel::segment_by_mask_cpu));
}
