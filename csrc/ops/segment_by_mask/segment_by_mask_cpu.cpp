#include <tuple>

#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_by_mask_row.h"

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
    count_out[b] = segment_by_mask_row(in + row.begin, row.length, id_out + row.begin);
  });
  return {ids, counts};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("segment_by_mask", TORCH_BOX(&segkernel::segment_by_mask_cpu));
}
