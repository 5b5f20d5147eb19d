#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "discounted_sum_row.h"

namespace segkernel {

Tensor discounted_sum_cpu(const Tensor& values, const OptionalTensor& mask, double discount,
                          const OptionalTensor& row_discount, bool adjoint, const OptionalTensor& cu_seqlens) {
  const RowsOf rows("values", values, cu_seqlens);
  const int64_t tokens = values.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  Tensor sums;

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("values", values, tokens);
    const auto discounts = per_row<C>("discount", discount, row_discount, rows->count);
    sums = rows.empty_tokens<C>();
    C* out = mutable_data<C>(sums);
    for_each_row(rows->count, tokens, [&](int64_t b) {
      const Row row = (*rows)[b];
      discounted_sum_row(in + row.begin, valid ? valid + row.begin : nullptr, row.length, discounts[b], adjoint,
                         out + row.begin);
    });
  });
  return sums;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("discounted_sum", TORCH_BOX(&segkernel::discounted_sum_cpu));
}
