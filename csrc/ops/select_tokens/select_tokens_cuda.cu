// Selection of tokens: one thread block per row, or several per long row.
#include <algorithm>

#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "select_tokens_long_rows.cuh"
#include "select_tokens_tensors.h"

namespace segkernel {

namespace {

template <class T>
__device__ RadixSearch<T> search_row(const SelectInput<T>& input, const Row& row, const SelectionSize& size) {
  __shared__ uint32_t histogram[kBins];
  auto search = RadixSearch<T>::start();
#pragma unroll 1
  while (search.unknown > 0) {
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) histogram[bin] = 0;
    __syncthreads();
#pragma unroll 1
    for (int64_t tile = 0; tile < row.length; tile += kTile) {
      search.count(TileKeys<T>(input, row, tile + threadIdx.x * kItems), histogram);
    }
    __syncthreads();
    search.next_digit(histogram, [&](int64_t n) { return size.of(blockIdx.x, n); });
  }
  return search;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    select_tokens_kernel(SelectInput<T> input, Rows rows, SelectionSize size, bool* selected) {
  const Row row = rows[blockIdx.x];
  const RadixSearch<T> search = search_row(input, row, size);
  int64_t ties = 0;  // in earlier tiles
#pragma unroll 1
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const int64_t first = tile + threadIdx.x * kItems;
    store_items(selected + row.begin, first, row.length, search.selected(TileKeys<T>(input, row, first), ties));
  }
}

// The mean length of the rows, by which the kernel is chosen. All choices give the same result.
int64_t mean_length(const Rows& rows, int64_t tokens) { return rows.count == 0 ? 0 : tokens / rows.count; }

template <class T>
void select_from_long_rows(const DeviceScope& device, const SelectInput<T>& input, const Rows& rows,
                           const SelectionSize& size, int64_t parts, bool* selected) {
  constexpr int kDigits = LongRows<T>::kDigits;
  const int64_t blocks = rows.count * parts;
  const Tensor histograms = empty<int64_t>({rows.count, kDigits, kBins}, device);
  const Tensor part_ties = empty<int64_t>({blocks}, device);
  auto* counts = reinterpret_cast<GlobalCount*>(mutable_data<int64_t>(histograms));
  const size_t bytes = histograms.numel() * sizeof(GlobalCount);
  check_cuda("select_tokens", "cudaMemsetAsync", cudaMemsetAsync(counts, 0, bytes, device.stream()));
  const LongRows<T> all{input, rows, size, parts, counts, mutable_data<int64_t>(part_ties), selected};
  for (int digit = 0; digit < kDigits; ++digit) {
    launch("select_tokens", count_digit_kernel<T>, blocks, kThreads, device.stream(), all, digit);
  }
  launch("select_tokens", count_ties_kernel<T>, blocks, kThreads, device.stream(), all);
  launch("select_tokens", write_selected_kernel<T>, blocks, kThreads, device.stream(), all);
}

}  // namespace

Tensor select_tokens_cuda(const Tensor& values, const OptionalTensor& mask, std::optional<double> fraction,
                          const OptionalTensor& row_fraction, std::optional<int64_t> count,
                          const OptionalTensor& row_count, bool largest, bool whole_batch, bool round_up,
                          const OptionalTensor& cu_seqlens) {
  const DeviceScope device("values", values);
  const RowsOf layout("values", values, cu_seqlens, device);
  const int64_t tokens = values.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  const Rows rows = selection_rows(layout, tokens, whole_batch);
  const SelectionSize size =
      selection_size(fraction, row_fraction, count, row_count, round_up, whole_batch ? 1 : rows.count, device);
  Tensor selected = layout.empty_tokens<bool>();

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const SelectInput<T> input{data<T>("values", values, tokens, device), valid, largest};
    bool* out = mutable_data<bool>(selected);
    const int64_t length = mean_length(rows, tokens);
    if (length < kLongRow) {
      launch("select_tokens", select_tokens_kernel<T>, rows.count, kThreads, device.stream(), input, rows, size, out);
    } else {
      const int64_t parts = std::min(length / (kTilesPerPart * kTile), kMaxParts);
      select_from_long_rows(device, input, rows, size, parts, out);
    }
  });
  return selected;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("select_tokens", TORCH_BOX(&segkernel::select_tokens_cuda));
}
