#include <vector>

#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_broadcast_row.h"

namespace segkernel {

Tensor segment_broadcast_cpu(const Tensor& values, const Tensor& ids, int64_t how, const OptionalTensor& cu_seqlens) {
  const RowsOf rows("ids", ids, cu_seqlens);
  const int64_t tokens = ids.numel();
  const int32_t* id_in = data<int32_t>("ids", ids, tokens);
  check(values.dim() == 2 && values.size(0) == rows->count, "values", "expected [B, S] with B = ", rows->count);
  check_code("how", how, static_cast<int64_t>(Broadcast::last));
  const int64_t segments = values.size(1);
  Tensor tokens_out;

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("values", values, rows->count * segments);
    tokens_out = rows.empty_tokens<C>();
    C* out = mutable_data<C>(tokens_out);
    for_each_row(rows->count, tokens + rows->count * segments, [&](int64_t b) {
      const Row row = (*rows)[b];
      std::vector<int64_t> known(segments + 1);
      std::vector<C> shares(segments + 1);
      const auto give = [&]<Broadcast kHow>() {
        segment_broadcast_row<kHow>(in + b * segments, id_in + row.begin, row.length, segments, known.data(),
                                    shares.data(), out + row.begin);
      };
      dispatch_broadcast(static_cast<Broadcast>(how), give);
    });
  });
  return tokens_out;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("segment_broadcast", TORCH_BOX(&segkernel::segment_broadcast_cpu));
}
