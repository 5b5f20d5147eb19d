// The Schmitt trigger: a block per row, the row in tiles from its beginning, the state carried from tile to tile.
#include "../cuda/device.h"
#include "../cuda/warp.h"
#include "hysteresis.h"

namespace segkernel {

namespace {

constexpr int kThreads = 256;
constexpr int kItems = 4;  // consecutive tokens of a thread
constexpr int kTile = kThreads * kItems;

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    hysteresis_kernel(const T* rewards, const bool* mask, Rows rows, PerRow<C> lows, PerRow<C> highs,
                      PerRow<int8_t> initials, bool hold, int8_t* states) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  const C low = lows[b];
  const C high = highs[b];
  int carried = initials[b];
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const int64_t first = tile + threadIdx.x * kItems;
    bool valid[kItems];
    int after[kItems];  // what this thread's tokens, up to each, make of the state
    int transition = kUnchanged;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int64_t t = first + i;
      valid[i] = t < row.length && (mask == nullptr || mask[row.begin + t]);
      if (valid[i]) transition = schmitt_step<C>(transition, widen(rewards[row.begin + t]), low, high, hold);
      after[i] = transition;
    }
    const auto scanned = block_scan<kThreads>(transition, kUnchanged,
                                              [](int earlier, int later) { return then_transition(earlier, later); });
    const int before = then_transition(carried, scanned.before);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int64_t t = first + i;
      if (t < row.length) states[row.begin + t] = valid[i] ? static_cast<int8_t>(then_transition(before, after[i])) : 0;
    }
    carried = then_transition(carried, scanned.all);
  }
}

}  // namespace

Tensor hysteresis_cuda(const Tensor& rewards, const OptionalTensor& mask, double low, const OptionalTensor& row_low,
                       double high, const OptionalTensor& row_high, int64_t initial, const OptionalTensor& row_initial,
                       bool hold, const OptionalTensor& cu_seqlens) {
  const DeviceScope device("rewards", rewards);
  const RowsOf rows("rewards", rewards, cu_seqlens, device);
  const int64_t tokens = rewards.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  const auto initials = per_row<int8_t>("initial", static_cast<double>(initial), row_initial, rows->count, device);
  Tensor states = rows.empty_tokens<int8_t>();

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    launch("hysteresis", hysteresis_kernel<T>, rows->count, kThreads, device.stream(),
           data<T>("rewards", rewards, tokens, device), valid, *rows,
           per_row<C>("low", low, row_low, rows->count, device),
           per_row<C>("high", high, row_high, rows->count, device), initials, hold, mutable_data<int8_t>(states));
  });
  return states;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("hysteresis", TORCH_BOX(&segkernel::hysteresis_cuda));
}
