// Entropy segmentation: one thread block per tile of a row.
//
// A segment may start at an uncertain token, a candidate, once the running segment has `min_length` tokens. So the
// start after a given one is the first candidate at that distance or farther, and the starts in a tile are the chain
// from the first candidate that the running segment allows. Pointer doubling follows the chains from all candidates at
// once. In most tiles all chains end at the same candidate; then the next tile does not wait for the earlier ones.
//
// Example: min_length 2, candidates at the valid tokens 0, 1, 3, 4 and 6 of a tile. The chains are 0 -> 3 -> 6,
// 1 -> 3 -> 6 and 4 -> 6; all of them end at 6.
#include <algorithm>
#include <tuple>

#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "../../torch/rows.h"
#include "../../torch/tile_memory.cuh"
#include "segment_by_entropy.h"

namespace segkernel {

namespace {

// Valid tokens that must follow before another segment may start.
using Needed = int64_t;
constexpr Needed kRowBegin = -1;  // before the first valid token of a row, which starts a segment in any case

// Step along a chain of starts: to a later candidate, over a number of starts.
struct Link {
  uint16_t candidate;
  uint16_t starts;
};

// The candidates of a tile and their chains.
struct Chains {
  const uint16_t* positions;  // [count], ascending: valid tokens of the tile before each candidate
  Link* links;                // [count], after `follow` to the last start of each chain
  int count;
  int valid;  // tokens of the tile
  int64_t min_length;

  // The first candidate at or after a position, `count` if there is none.
  __device__ int first_at(int64_t position) const {
    int low = 0, high = count;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (positions[middle] < position) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // Fills `links`, in shared memory, by all threads of the block. visit(candidate, link) gets links over up to 1, 2, 4,
  // ... starts in turn.
  template <class Visit>
  __device__ void follow(const Visit& visit) const {
    const auto for_each = [&](const auto& body) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int candidate = static_cast<int>(threadIdx.x) + i * kThreads;
        if (candidate < count) body(i, candidate);
      }
    };
    __syncthreads();
    for_each([&](int, int candidate) {
      const int next = first_at(positions[candidate] + min_length);
      links[candidate] =
          next < count ? Link{static_cast<uint16_t>(next), 1} : Link{static_cast<uint16_t>(candidate), 0};
    });
    __syncthreads();
    const int64_t longest = valid / min_length + 1;  // chain, in starts
    for (int reach = 1; reach < longest && reach < count; reach *= 2) {
      Link doubled[kItems];
      for_each([&](int i, int candidate) {
        const Link link = links[candidate], after = links[link.candidate];
        doubled[i] = {after.candidate, static_cast<uint16_t>(link.starts + after.starts)};
        visit(candidate, link);
      });
      __syncthreads();
      for_each([&](int i, int candidate) { links[candidate] = doubled[i]; });
      __syncthreads();
    }
  }

  // The first candidate that starts a segment, `count` if none does.
  __device__ int first_start(Needed before) const { return first_at(before == kRowBegin ? min_length : before); }

  // Number of segments that start in the tile.
  __device__ int starts(Needed before) const {
    const int first = first_start(before);
    return (before == kRowBegin && valid > 0 ? 1 : 0) + (first < count ? links[first].starts + 1 : 0);
  }

  // State after the tile.
  __device__ Needed after(Needed before) const {
    const int first = first_start(before);
    if (first < count) return needed_after(positions[links[first].candidate]);
    if (before == kRowBegin) return valid == 0 ? kRowBegin : needed_after(0);
    return before > valid ? before - valid : 0;
  }

  // Whether after() is surely the same for all states before the tile. Chains do not cross: if those from the first and
  // from the last possible start meet after equally many starts, so do all between them.
  __device__ bool ends_alike() const {
    const int last = first_at(min_length);
    if (last < count) return links[0].candidate == links[last].candidate && links[0].starts == links[last].starts;
    return valid >= min_length && (count == 0 || needed_after(positions[count - 1]) == 0);
  }

 private:
  __device__ Needed needed_after(int start) const {
    const int64_t length = valid - start;
    return length < min_length ? min_length - length : 0;
  }
};

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    segment_by_entropy_kernel(const T* entropy, const bool* mask, TileSchedule schedule, TileAggregates<Needed> needed,
                              TileAggregates<int32_t> tile_segments, PerRow<C> thresholds, int64_t min_length,
                              int32_t* ids, int32_t* counts) {
  __shared__ uint16_t positions[kTile];
  __shared__ Link links[kTile];
  __shared__ bool is_start[kTile];  // of a candidate
  const auto add = [](int a, int b) { return a + b; };
  const Tile tile(schedule);
  if (!tile.exists()) {
    needed.publish(tile.block, Needed{kRowBegin});
    tile_segments.publish(tile.block, 0);
    return;
  }
  const Row row = tile.row;
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  const C threshold = thresholds[tile.row_index];
  const Items<T> values = load_items(entropy + row.begin, first, row.length);
  const Items<bool> valid = load_valid(mask, row.begin, first, row.length);
  bool is_candidate[kItems];
  int tokens = 0;  // valid ones, and candidates in the upper 16 bits
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    is_candidate[i] = valid.of[i] && is_uncertain<C>(widen(values.of[i]), threshold);
    tokens += static_cast<int>(valid.of[i]) + (static_cast<int>(is_candidate[i]) << 16);
  }
  const ExclusiveScan<int> scanned = block_scan<kThreads>(tokens, 0, add);
  // Calls body(item, candidate) for this thread's candidates.
  const auto for_each_candidate = [&](const auto& body) {
    int candidate = scanned.prefix >> 16;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (is_candidate[i]) body(i, candidate++);
    }
  };
  int position[kItems];
#pragma unroll
  for (int i = 0, next = scanned.prefix & 0xffff; i < kItems; ++i) {
    position[i] = next;
    next += valid.of[i];
  }
  for_each_candidate([&](int i, int candidate) { positions[candidate] = static_cast<uint16_t>(position[i]); });

  const Chains chains{positions, links, scanned.total >> 16, scanned.total & 0xffff, min_length};
  chains.follow([](int, Link) {});
  const bool ends_alike = chains.ends_alike();
  if (ends_alike) needed.publish(tile.block, chains.after(0));
  Needed before[1] = {kRowBegin};
  if (tile.index > 0) needed.wait_for(before, tile.block - 1, tile.block, Needed{kRowBegin});
  if (!ends_alike) needed.publish(tile.block, chains.after(before[0]));
  const int starts = chains.starts(before[0]), first_start = chains.first_start(before[0]);
  tile_segments.publish(tile.block, starts);
  const int32_t earlier = look_back<kThreads>(tile_segments, tile, 0, add);

  // From the first start, links over 1, 2, 4, ... starts reach every other one.
  for_each_candidate([&](int, int candidate) { is_start[candidate] = candidate == first_start; });
  chains.follow([&](int candidate, Link link) {
    if (is_start[candidate]) is_start[link.candidate] = true;
  });
  bool starts_here[kItems];
  int starts_of_thread = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) starts_here[i] = before[0] == kRowBegin && valid.of[i] && position[i] == 0;
  for_each_candidate([&](int i, int candidate) { starts_here[i] |= is_start[candidate]; });
#pragma unroll
  for (int i = 0; i < kItems; ++i) starts_of_thread += starts_here[i];
  int32_t id = earlier + block_scan<kThreads>(starts_of_thread, 0, add).prefix - 1;
  Items<int32_t> out;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    id += starts_here[i];
    out.of[i] = valid.of[i] ? id : -1;
  }
  store_items(ids + row.begin, first, row.length, out);
  if (tile.is_last() && threadIdx.x == 0) counts[tile.row_index] = earlier + starts;
}

}  // namespace

std::tuple<Tensor, Tensor> segment_by_entropy_cuda(const Tensor& entropy, const OptionalTensor& mask, double threshold,
                                                   const OptionalTensor& row_threshold, int64_t min_length,
                                                   const OptionalTensor& cu_seqlens) {
  const DeviceScope device("entropy", entropy);
  const RowsOf rows("entropy", entropy, cu_seqlens, device);
  const int64_t tokens = entropy.numel();
  const bool* valid = data<bool>("mask", mask, tokens, device);
  Tensor ids = rows.empty_tokens<int32_t>();
  Tensor counts = empty<int32_t>({rows->count}, device);
  const TileSchedule schedule{*rows};
  constexpr int kWords = TileAggregates<Needed>::kWords;
  const TileMemory memory("segment_by_entropy", schedule, kWords + TileAggregates<int32_t>::kWords, device);

  dispatch_floats("entropy", entropy.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = data<T>("entropy", entropy, tokens, device);
    const auto thresholds = per_row<compute_t<T>>("threshold", threshold, row_threshold, rows->count, device);
    launch("segment_by_entropy", segment_by_entropy_kernel<T>, schedule.count(), kThreads, device.stream(), in, valid,
           schedule, memory.aggregates<Needed>(), memory.aggregates<int32_t>(kWords), thresholds,
           // One outside of these limits means the same, but its sums may overflow, and 0 is no divisor.
           std::clamp<int64_t>(min_length, 1, rows->length + 1), mutable_data<int32_t>(ids),
           mutable_data<int32_t>(counts));
  });
  return {ids, counts};
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment_by_entropy", TORCH_BOX(&segkernel::segment_by_entropy_cuda));
}
