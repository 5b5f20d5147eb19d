#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "redistribute_row.h"

namespace segkernel {

Tensor redistribute_cpu(const Tensor& prefix_scores, const OptionalTensor& mask, double initial,
                        const OptionalTensor& row_initial, const OptionalTensor& sequence_rewards, double mix,
                        const OptionalTensor& row_mix, const OptionalTensor& cu_seqlens) {
  const RowsOf rows("prefix_scores", prefix_scores, cu_seqlens);
  const int64_t tokens = prefix_scores.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  Tensor rewards;

  dispatch_floats("prefix_scores", prefix_scores.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("prefix_scores", prefix_scores, tokens);
    const auto initials = per_row<C>("initial", initial, row_initial, rows->count);
    const auto mixes = per_row<C>("mix", mix, row_mix, rows->count);
    const C* sparse = data<C>("sequence_rewards", sequence_rewards, rows->count);
    rewards = rows.empty_tokens<C>();
    C* out = mutable_data<C>(rewards);
    for_each_row(rows->count, tokens, [&](int64_t b) {
      const Row row = (*rows)[b];
      redistribute_row(in + row.begin, valid ? valid + row.begin : nullptr, row.length, initials[b], mixes[b],
                       sparse ? sparse + b : nullptr, out + row.begin);
    });
  });
  return rewards;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("redistribute", TORCH_BOX(&segkernel::redistribute_cpu));
}
