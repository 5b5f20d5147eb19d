#include <tuple>

#include "../../torch/dispatch.h"
#include "../../torch/parallel_parts.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "gae_parts.h"

namespace segkernel {

std::tuple<Tensor, Tensor> gae_cpu(const Tensor& rewards, const Tensor& values, const OptionalTensor& mask,
                                   double gamma, const OptionalTensor& row_gamma, double lam,
                                   const OptionalTensor& row_lam, double value_lam, const OptionalTensor& row_value_lam,
                                   bool holes_are_steps, const OptionalTensor& cu_seqlens) {
  const RowsOf rows("rewards", rewards, cu_seqlens);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  Tensor advantages;
  Tensor returns;

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* reward_in = data<T>("rewards", rewards, tokens);
    const T* value_in = data<T>("values", values, tokens);
    const auto gammas = per_row<C>("gamma", gamma, row_gamma, rows->count);
    const auto lams = per_row<C>("lam", lam, row_lam, rows->count);
    const auto value_lams = per_row<C>("value_lam", value_lam, row_value_lam, rows->count);
    advantages = rows.empty_tokens<C>();
    returns = rows.empty_tokens<C>();
    C* advantage_out = mutable_data<C>(advantages);
    C* return_out = mutable_data<C>(returns);
    for_each_row_in_parts(*rows, tokens, [&](int64_t b, const auto& for_each) {
      const Row row = (*rows)[b];
      gae_row_in_parts(reward_in + row.begin, value_in + row.begin, valid ? valid + row.begin : nullptr, row.length,
                       gammas[b], lams[b], value_lams[b], holes_are_steps, advantage_out + row.begin,
                       return_out + row.begin, for_each);
    });
  });
  return {advantages, returns};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) { library.impl("gae", TORCH_BOX(&segkernel::gae_cpu)); }
