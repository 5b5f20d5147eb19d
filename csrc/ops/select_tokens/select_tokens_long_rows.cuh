// Selection in long rows: several thread blocks per row, and one kernel per digit of the radix select.
#pragma once

#include "../../cuda/launch.h"
#include "select_tokens_radix.cuh"

namespace segkernel {

constexpr int64_t kTilesPerPart = 4;  // if a row has fewer than kMaxParts parts
constexpr int64_t kMaxParts = 512;
constexpr int64_t kLongRow = 32 * kTile;

using GlobalCount = unsigned long long;  // the type of 64-bit atomics

template <class T>
struct LongRows {
  static constexpr int kDigits = (kKeyBits<T> + kDigitBits - 1) / kDigitBits;

  SelectInput<T> input;
  Rows rows;
  SelectionSize size;
  int64_t parts;            // of each row, one per thread block
  GlobalCount* histograms;  // [rows, kDigits, kBins], initially 0
  int64_t* part_ties;       // [rows, parts]
  bool* selected;

  __device__ GlobalCount* histogram(int64_t row, int digit) const {
    return histograms + (row * kDigits + digit) * kBins;
  }

  // The search after the first `digits` digits, whose histograms must be complete.
  __device__ RadixSearch<T> search(int64_t row, int digits) const {
    auto search = RadixSearch<T>::start();
#pragma unroll 1
    for (int digit = 0; digit < digits && search.unknown > 0; ++digit) {
      search.next_digit(histogram(row, digit), [&](int64_t n) { return size.of(row, n); });
    }
    return search;
  }
};

// The tiles of a thread block: consecutive ones of one row.
struct RowPart {
  int64_t row_index, part;
  Row row;
  int64_t begin, end;

  __device__ RowPart(const Rows& rows, int64_t parts)
      : row_index(blockIdx.x / parts), part(blockIdx.x % parts), row(rows[row_index]) {
    const int64_t tiles = (row.length + kTile - 1) / kTile;
    const int64_t length = (tiles + parts - 1) / parts * kTile;
    begin = part * length;
    end = begin + length < row.length ? begin + length : row.length;
  }

  // Calls body(first) for each tile, with the index in the row of the thread's first token.
  template <class Body>
  __device__ void for_each_tile(const Body& body) const {
#pragma unroll 1
    for (int64_t tile = begin; tile < end; tile += kTile) body(tile + threadIdx.x * kItems);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) count_digit_kernel(LongRows<T> all, int digit) {
  const RowPart part(all.rows, all.parts);
  const RadixSearch<T> search = all.search(part.row_index, digit);
  if (search.unknown == 0) return;
  __shared__ uint32_t histogram[kBins];
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) histogram[bin] = 0;
  __syncthreads();
  part.for_each_tile([&](int64_t first) { search.count(TileKeys<T>(all.input, part.row, first), histogram); });
  __syncthreads();
  GlobalCount* total = all.histogram(part.row_index, digit);
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    if (histogram[bin] > 0) atomicAdd(&total[bin], GlobalCount{histogram[bin]});
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) count_ties_kernel(LongRows<T> all) {
  const RowPart part(all.rows, all.parts);
  const RadixSearch<T> search = all.search(part.row_index, LongRows<T>::kDigits);
  if (search.ties == 0) return;
  int64_t ties = 0;
  part.for_each_tile([&](int64_t first) {
    const TileKeys<T> keys(all.input, part.row, first);
#pragma unroll
    for (int i = 0; i < kItems; ++i) ties += search.is_tie(keys, i);
  });
  ties = block_reduce<kThreads>(ties, int64_t{0}, [](int64_t a, int64_t b) { return a + b; });
  if (threadIdx.x == 0) all.part_ties[blockIdx.x] = ties;
}

template <class T>
__global__ void __launch_bounds__(kThreads) write_selected_kernel(LongRows<T> all) {
  const RowPart part(all.rows, all.parts);
  const RadixSearch<T> search = all.search(part.row_index, LongRows<T>::kDigits);
  int64_t ties = 0;  // of the row's earlier tiles
  if (search.ties > 0) {
    const int64_t* of_row = all.part_ties + part.row_index * all.parts;
    for (int64_t earlier = threadIdx.x; earlier < part.part; earlier += kThreads) ties += of_row[earlier];
    ties = block_reduce<kThreads>(ties, int64_t{0}, [](int64_t a, int64_t b) { return a + b; });
  }
  part.for_each_tile([&](int64_t first) {
    const Items<bool> chosen = search.selected(TileKeys<T>(all.input, part.row, first), ties);
    store_items(all.selected + part.row.begin, first, part.row.length, chosen);
  });
}

}  // namespace segkernel
