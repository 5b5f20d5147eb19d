#include <vector>

#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "segment_reduce_row.h"

namespace segkernel {

Tensor segment_reduce_cpu(const Tensor& values, const Tensor& ids, int64_t segments, int64_t reduce,
                          const OptionalTensor& cu_seqlens) {
  const RowsOf rows("values", values, cu_seqlens);
  const int64_t tokens = values.numel();
  const int32_t* id_in = data<int32_t>("ids", ids, tokens);
  check(segments >= 0, "num_segments", "expected >= 0, got ", segments);
  check_code("reduce", reduce, kLogSumExp);
  Tensor reduced;

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("values", values, tokens);
    reduced = empty<C>({rows->count, segments});
    C* out = mutable_data<C>(reduced);
    for_each_row(rows->count, tokens + rows->count * segments, [&](int64_t b) {
      const Row row = (*rows)[b];
      std::vector<int32_t> counts(segments + kTokensAtOnce);
      if (reduce == kLogSumExp) {
        std::vector<LogSumExp<C>> states(segments);
        segment_logsumexp_row(in + row.begin, id_in + row.begin, row.length, segments, counts.data(), states.data(),
                              out + b * segments);
        return;
      }
      dispatch_reduce(static_cast<Reduce>(reduce), [&]<Reduce kReduce>() {
        std::vector<C> folded(segments + kTokensAtOnce);
        segment_reduce_row<kReduce>(in + row.begin, id_in + row.begin, row.length, segments, counts.data(),
                                    folded.data(), out + b * segments);
      });
    });
  });
  return reduced;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("segment_reduce", TORCH_BOX(&segkernel::segment_reduce_cpu));
}
