// The Schmitt trigger: one thread block per row, which carries the state from tile to tile.
#include "../../cuda/row_tiles.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "hysteresis.h"

namespace segkernel {

namespace {

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
    const Items<T> reward = load_items(rewards + row.begin, first, row.length);
    const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
    int transition[kItems];  // of this thread's tokens up to and including each
    int transition_so_far = kUnchanged;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (valid.of[i]) transition_so_far = schmitt_step<C>(transition_so_far, widen(reward.of[i]), low, high, hold);
      transition[i] = transition_so_far;
    }
    const ExclusiveScan<int> scanned = block_scan<kThreads>(
        transition_so_far, kUnchanged, [](int earlier, int later) { return then_transition(earlier, later); });
    const int before = then_transition(carried, scanned.prefix);
    Items<int8_t> state;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      state.of[i] = valid.of[i] ? static_cast<int8_t>(then_transition(before, transition[i])) : int8_t{0};
    }
    store_items(states + row.begin, first, row.length, state);
    carried = then_transition(carried, scanned.total);
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
  const auto initials = state_per_row("initial", initial, row_initial, rows->count, device);
  Tensor states = rows.empty_tokens<int8_t>();

  dispatch_floats("rewards", rewards.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const T* in = data<T>("rewards", rewards, tokens, device);
    const auto lows = per_row<C>("low", low, row_low, rows->count, device);
    const auto highs = per_row<C>("high", high, row_high, rows->count, device);
    launch("hysteresis", hysteresis_kernel<T>, rows->count, kThreads, device.stream(), in, valid, *rows, lows, highs,
           initials, hold, mutable_data<int8_t>(states));
  });
  return states;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("hysteresis", TORCH_BOX(&segkernel::hysteresis_cuda));
}
