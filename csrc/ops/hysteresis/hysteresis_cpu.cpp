#include "../../torch/dispatch.h"
#include "../../torch/parallel_parts.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "hysteresis_parts.h"

namespace segkernel {

Tensor hysteresis_cpu(const Tensor& rewards, const OptionalTensor& mask, double low, const OptionalTensor& row_low,
                      double high, const OptionalTensor& row_high, int64_t initial, const OptionalTensor& row_initial,
                      bool hold, const OptionalTensor& cu_seqlens) {
  const RowsOf rows("rewards", rewards, cu_seqlens);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  const auto initials = state_per_row("initial", initial, row_initial, rows->count);
  check_states("initial", initials, rows->count);
  Tensor states = rows.empty_tokens<int8_t>();
  int8_t* out = mutable_data<int8_t>(states);

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("rewards", rewards, tokens);
    const auto lows = per_row<C>("low", low, row_low, rows->count);
    const auto highs = per_row<C>("high", high, row_high, rows->count);
    check_ordered(lows, highs, rows->count);
    for_each_row_in_parts(*rows, tokens, [&](int64_t b, const auto& for_each) {
      const Row row = (*rows)[b];
      hysteresis_row_in_parts(in + row.begin, valid ? valid + row.begin : nullptr, row.length, lows[b], highs[b],
                              initials[b], hold, out + row.begin, for_each);
    });
  });
  return states;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("hysteresis", TORCH_BOX(&segkernel::hysteresis_cpu));
}
