// `segment`: a single pass with one thread block per tile of 1,024 tokens. A tile gets its prefix state from the
// earlier tiles of its row by decoupled look-back. The order of additions depends only on the tokens' positions in
// their row, so results are reproducible.
#include <algorithm>

#include "../../torch/cuda_device.h"
#include "../../torch/registration.h"
#include "../../torch/tile_memory.cuh"
#include "segment_tensors.h"
#include "segment_tile.cuh"

namespace segkernel {

namespace {

// 8 blocks on each of 132 multiprocessors keep all 1,024 tiles of a row of a million tokens resident on an H100.
constexpr int kBlocksPerMultiprocessor = 8;

template <class T>
struct SegmentInput {
  const T* rewards;
  const bool* mask;
  SegmentRules<compute_t<T>> rules;
  bool mean;
};

// Writes `count` segments that ended in a tile; the first of them has index `first` in the row, or -1 if there is no
// open segment before the tile.
template <class C>
__device__ void write_ended(const EndedSegments<C>& ended, int count, int32_t first, int64_t row_length, bool mean,
                            const SegmentRule<C>& rule, const SegmentOut& out) {
#pragma unroll 1
  for (int index = threadIdx.x; index < count; index += blockDim.x) {
    const int64_t id = first + index;
    // The row's first start ends no segment. With malformed offsets, too, a row has at most as many segments as tokens.
    if (id < 0 || id >= row_length) continue;
    const C folded = ended.folded[index];
    const C reduced = mean ? finish<Reduce::mean>(folded, ended.lengths[index]) : folded;
    out.lengths[id] = ended.lengths[index];
    out.rewards[id] = static_cast<float>(reduced);
    out.signs[id] = static_cast<int8_t>(rule.use_trigger ? ended.states[index] : sign_of(reduced - rule.baseline));
  }
}

template <Reduce kReduce, class T, class Prefix = PrefixState<compute_t<T>>,
          class Open = OpenSegment<kReduce, compute_t<T>>>
__global__ void __launch_bounds__(kSegmentThreads, kBlocksPerMultiprocessor)
    segment_kernel(SegmentInput<T> input, TileSchedule schedule, TileAggregates<Prefix> prefixes,
                   TileAggregates<Open> opens, SegmentOut all, int32_t* counts) {
  const Tile tile(schedule);
  if (!tile.exists()) {  // publishes too, so that no block waits forever when offsets are malformed
    prefixes.publish(tile.block, Prefix::identity());
    opens.publish(tile.block, Open::identity());
    return;
  }
  const auto rule = input.rules[tile.row_index];
  const int64_t position = tile.row.begin + tile.begin();
  ThreadTokens<kReduce, T> tokens(input.rewards + position, input.mask == nullptr ? nullptr : input.mask + position,
                                  tile.length(), rule);

  const ExclusiveScan<Prefix> prefix = scan(tokens.prefix_state());
  prefixes.publish(tile.block, prefix.total);
  const Prefix initial{0, false, static_cast<int16_t>(rule.initial)};
  const Prefix before_tile = Prefix::combine(initial, look_back(prefixes, tile));

  const ExclusiveScan<Open> open = scan(tokens.open_segment(Prefix::combine(before_tile, prefix.prefix)));
  opens.publish(tile.block, open.total);
  const Open open_before_tile = look_back(opens, tile);

  __shared__ EndedSegments<compute_t<T>> ended;
  const int32_t started = open_before_tile.segments;
  const int32_t starts = open.total.segments;
  const bool ends_row = tile.is_last() && threadIdx.x == blockDim.x - 1;
  tokens.write(Open::combine(open_before_tile, open.prefix), started, ends_row, all.ids + position,
               all.mask != nullptr && rule.use_trigger ? all.mask + position : nullptr, ended);
  if (ends_row) counts[tile.row_index] = started + starts;
  __syncthreads();
  const SegmentOut out = all.from(tile.row.begin);
  write_ended(ended, starts + tile.is_last(), started - 1, tile.row.length, input.mean, rule, out);
  // Clear the entries that can no longer be used. A row of T tokens has T entries; a tile with n tokens and s starts
  // frees the last n - s of those that earlier tiles left.
  const int64_t last = tile.row.length - tile.begin() + started;
  const int64_t first_free = last - tile.length() + starts;
  clear_items(out.lengths, first_free, last);
  clear_items(out.rewards, first_free, last);
  clear_items(out.signs, first_free, last);
}

// The mask without a trigger: a segment's sign is known only when it ends, so this is a second pass.
template <class T>
__global__ void __launch_bounds__(kThreads)
    segment_mask_kernel(SegmentInput<T> input, TileSchedule schedule, SegmentOut all) {
  const Tile tile(schedule);
  if (!tile.exists()) return;
  const SegmentOut out = all.from(tile.row.begin);
  const auto rule = input.rules[tile.row_index];
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  const auto ids = load_items(out.ids, first, tile.row.length);
  Items<bool> kept{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (first + i >= tile.row.length || ids.of[i] < 0 || ids.of[i] >= tile.row.length) continue;
    kept.of[i] = keeps(out.signs[ids.of[i]], rule.sequence_sign, rule.keep_neutral);
  }
  store_items(out.mask, first, tile.row.length, kept);
}

template <Reduce kReduce, class T>
void launch_segment(const DeviceScope& device, const SegmentInput<T>& input, const Rows& rows, const SegmentOut& out,
                    int32_t* counts) {
  using Prefix = PrefixState<compute_t<T>>;
  using Open = OpenSegment<kReduce, compute_t<T>>;
  const TileSchedule schedule{rows};
  const TileMemory memory("segment", schedule, TileAggregates<Prefix>::kWords + TileAggregates<Open>::kWords, device);
  constexpr int kPerWarp = kWarp * kSegmentItems;
  const bool short_rows = !rows.packed() && rows.length < kTile;
  const int warps = short_rows ? static_cast<int>((rows.length + kPerWarp - 1) / kPerWarp) : kTile / kPerWarp;
  launch("segment", segment_kernel<kReduce, T>, schedule.count(), kWarp * std::max(warps, 1), device.stream(), input,
         schedule, memory.aggregates<Prefix>(), memory.aggregates<Open>(TileAggregates<Prefix>::kWords), out, counts);
}

class SegmentOnCuda : public DeviceScope {
 public:
  using DeviceScope::DeviceScope;

  RowsOf rows(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens) const {
    return {argument, tokens, cu_seqlens, *this};
  }

  template <class T>
  void run(Reduce reduce, const T* rewards, const bool* mask, const Rows& rows, const SegmentRules<compute_t<T>>& rules,
           const SegmentOut& out, int32_t* counts) const {
    const SegmentInput<T> input{rewards, mask, rules, reduce == Reduce::mean};
    dispatch_reduce(reduce, [&]<Reduce kReduce>() {
      launch_segment<kReduce == Reduce::mean ? Reduce::sum : kReduce>(*this, input, rows, out, counts);
    });
    if (out.mask == nullptr || rules.use_trigger) return;
    const TileSchedule schedule{rows};
    launch("segment", segment_mask_kernel<T>, schedule.count(), kThreads, stream(), input, schedule, out);
  }
};

}  // namespace

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment", TORCH_BOX(&segkernel::segment_tensors<segkernel::SegmentOnCuda>));
}
