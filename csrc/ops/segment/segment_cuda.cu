// `segment`: a single pass with one thread block per tile of 1,024 tokens. A tile gets its prefix state from the
// earlier tiles of its row by decoupled look-back. The order of additions depends only on the tokens' positions in
// their row, so results are reproducible.
#include <algorithm>

#include "../../cuda/lookback.cuh"
#include "../../cuda/tile_schedule.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/registration.h"
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
  int8_t* all_signs;  // one per token, or null: without a trigger, the mask is computed from them in a second pass

  __device__ int8_t* signs_of(const Row& row) const { return all_signs == nullptr ? nullptr : all_signs + row.begin; }
};

// Aggregates that tiles publish for the later tiles of their row. The number of starts is separate: all later tiles
// read it, and usually only the next one reads the rest. Blocks without a tile publish too, so that no block waits
// forever when offsets are malformed.
template <Reduce kReduce, class C>
struct SegmentAggregates {
  struct Last {
    C folded;
    int32_t length;
    int32_t segments;
  };

  TileAggregates<PrefixState<C>> prefixes;
  TileAggregates<int32_t> starts;
  TileAggregates<Last> last;
  bool used;

  static constexpr int64_t kWords =
      TileAggregates<PrefixState<C>>::kWords + TileAggregates<int32_t>::kWords + TileAggregates<Last>::kWords;

  // `words`: kWords per block, initially 0; or null if every row is a single tile.
  SegmentAggregates(uint64_t* words, int64_t blocks)
      : prefixes(words),
        starts(words + blocks * TileAggregates<PrefixState<C>>::kWords),
        last(words + blocks * (TileAggregates<PrefixState<C>>::kWords + TileAggregates<int32_t>::kWords)),
        used(words != nullptr) {}

  __device__ void publish(int64_t block, const PrefixState<C>& total) const {
    if (used && threadIdx.x == 0) prefixes.publish(block, total);
  }
  __device__ void publish(int64_t block, const OpenSegment<kReduce, C>& total) const {
    if (!used || threadIdx.x != 0) return;
    starts.publish(block, total.segments);
    last.publish(block, {total.folded, total.length, total.segments});
  }
  __device__ OpenSegment<kReduce, C> wait_for_open(int64_t block) const {
    const Last aggregate = last.wait_for(block);
    return {aggregate.segments, aggregate.length, aggregate.folded};
  }
};

// Look-back: the prefix state of all earlier tiles of the row. Visits the nearest tiles first and stops when both parts
// of the state are known.
template <class C>
__device__ PrefixState<C> look_back_prefix(const Tile& tile, const SegmentRule<C>& rule,
                                           const TileAggregates<PrefixState<C>>& aggregates) {
  auto prefix = PrefixState<C>::identity();
  if (!rule.use_trigger) prefix.transition = static_cast<int16_t>(rule.initial);
  for (int64_t end = tile.index; end > 0 && !(prefix.any && prefix.transition != kUnchanged); end -= kSegmentThreads) {
    const int64_t index = end - kSegmentThreads + threadIdx.x;
    const PrefixState<C> mine =
        index >= 0 ? aggregates.wait_for(tile.first_block() + index) : PrefixState<C>::identity();
    prefix = combine_prefixes(scan_prefixes(mine).total, prefix);
  }
  return prefix;
}

// Look-back: the open segment after all earlier tiles of the row. Its tokens lie in the last tile with a start and the
// tiles after it.
template <Reduce kReduce, class C>
__device__ OpenSegment<kReduce, C> look_back_open(const Tile& tile, const SegmentAggregates<kReduce, C>& aggregates) {
  using Open = OpenSegment<kReduce, C>;
  constexpr int kLoads = 4;
  struct Starts {
    int32_t count;
    int64_t last_block;  // the last block with a start, or -1
  } mine{0, -1};
  const int64_t previous = tile.block - 1;
  const Open of_previous = aggregates.wait_for_open(previous);  // usually the open segment starts there
  for (int64_t block = tile.first_block() + threadIdx.x; block < tile.block; block += kLoads * kSegmentThreads) {
    int32_t starts[kLoads];
    aggregates.starts.wait_for(starts, block, kSegmentThreads, tile.block, 0);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      mine.count += starts[i];
      if (starts[i] > 0) mine.last_block = block + i * kSegmentThreads;
    }
  }
  const Starts all = block_reduce<kSegmentThreads>(mine, Starts{0, -1}, [](const Starts& a, const Starts& b) {
    return Starts{a.count + b.count, a.last_block > b.last_block ? a.last_block : b.last_block};
  });
  auto open = Open::identity();
  if (all.last_block < 0) return open;
  if (all.last_block == previous) {
    open = of_previous;
  } else {
    for (int64_t block = all.last_block + threadIdx.x; block - threadIdx.x < tile.block; block += kSegmentThreads) {
      const Open of_block = block < tile.block ? aggregates.wait_for_open(block) : Open::identity();
      open =
          combine_open(open, block_scan<kSegmentThreads>(of_block, Open::identity(), combine_open<kReduce, C>).total);
    }
  }
  open.segments = all.count;
  return open;
}

// Writes the segments that ended in a tile. `first`: row-local index of the first of them, -1 if there is no open
// segment before the tile; `earlier`: its tokens in previous tiles.
template <class C>
__device__ void write_ended(const EndedSegments<C>& ended, int count, int32_t first, int32_t earlier,
                            int64_t row_length, bool mean, const SegmentRule<C>& rule, const SegmentRowOut& out,
                            int8_t* all_signs) {
  // The row's first start ends no segment. With malformed offsets, too, a row has at most as many segments as tokens.
  const int begin = first < 0 ? -first : 0;
  const int end = static_cast<int>(std::min<int64_t>(count, row_length - first));
  const int kept = static_cast<int>(std::min<int64_t>(end, out.capacity - first));
#pragma unroll 1
  for (int index = begin + static_cast<int>(threadIdx.x); index < end; index += blockDim.x) {
    const int64_t id = first + index;
    const auto [folded, ends_at] = ended.segments[index];
    const int before = index == 0 ? -earlier : static_cast<int>(ended.segments[index - 1].end >> 16);
    const int32_t length = static_cast<int>(ends_at >> 16) - before;
    const C reduced = mean ? finish<Reduce::mean>(folded, length) : folded;
    const int sign = rule.use_trigger ? ended.state_of(ends_at) : sign_of(reduced - rule.baseline);
    if (all_signs != nullptr) all_signs[id] = static_cast<int8_t>(sign);
    if (index >= kept) continue;
    out.lengths[id] = length;
    out.rewards[id] = static_cast<float>(reduced);
    out.signs[id] = static_cast<int8_t>(sign);
  }
}

template <Reduce kReduce, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kSegmentThreads, kBlocksPerMultiprocessor)
    segment_kernel(SegmentInput<T> input, TileSchedule schedule, SegmentAggregates<kReduce, C> aggregates,
                   SegmentOut all) {
  using Open = OpenSegment<kReduce, C>;
  const Tile tile(schedule);
  if (!tile.exists()) {
    aggregates.publish(tile.block, PrefixState<C>::identity());
    aggregates.publish(tile.block, Open::identity());
    return;
  }
  const SegmentRule<C> rule = input.rules[tile.row_index];
  const int64_t position = tile.row.begin + tile.begin();
  ThreadTokens<kReduce, T> tokens(input.rewards + position, input.mask == nullptr ? nullptr : input.mask + position,
                                  tile.length(), rule);

  const ExclusiveScan<PrefixState<C>> prefixes = scan_prefixes(tokens.prefix_state());
  aggregates.publish(tile.block, prefixes.total);
  PrefixState<C> before{0, false, static_cast<int16_t>(rule.initial)};
  if (tile.index > 0) before = combine_prefixes(before, look_back_prefix(tile, rule, aggregates.prefixes));

  const auto opens = scan_open(tokens.open_segment(combine_prefixes(before, prefixes.prefix)), tokens.count());
  aggregates.publish(tile.block, opens.total);
  const Open open = tile.index > 0 ? look_back_open(tile, aggregates) : Open::identity();

  __shared__ EndedSegments<C> ended;
  const Open row = combine_open(open, opens.total);
  tokens.write(combine_open(open, opens.prefix), open.segments, opens.tokens_before, all.ids + position,
               rule.want_mask && rule.use_trigger ? all.mask + position : nullptr, ended);
  if (tile.is_last() && threadIdx.x == blockDim.x - 1) {
    tokens.end_row(row, open.segments, opens.tokens, ended);
    all.counts[tile.row_index] = row.segments;
  }
  __syncthreads();
  const SegmentRowOut out = all.row(tile.row_index, tile.row);
  write_ended(ended, opens.total.segments + tile.is_last(), open.segments - 1, open.length, tile.row.length, input.mean,
              rule, out, input.signs_of(tile.row));
  // Clear the entries that can no longer be used. A row of T tokens has T entries; a tile with n tokens and s starts
  // frees the last n - s of those that earlier tiles left.
  const int64_t last = tile.row.length - tile.begin() + open.segments;
  const int64_t first_free = last - tile.length() + opens.total.segments;
  const int64_t last_free = tile.index == 0 || last > out.capacity ? out.capacity : last;
  clear_items(out.lengths, first_free, last_free);
  clear_items(out.rewards, first_free, last_free);
  clear_items(out.signs, first_free, last_free);
}

// The mask without a trigger: a segment's sign is known only when it ends, so this is a second pass.
template <class T>
__global__ void __launch_bounds__(kThreads)
    segment_mask_kernel(SegmentInput<T> input, TileSchedule schedule, SegmentOut all) {
  const Tile tile(schedule);
  if (!tile.exists()) return;
  const SegmentRowOut out = all.row(tile.row_index, tile.row);
  const auto rule = input.rules[tile.row_index];
  const int8_t* signs = input.signs_of(tile.row);
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  const auto ids = load_items(out.ids, first, tile.row.length);
  Items<bool> kept{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (first + i >= tile.row.length || ids.of[i] < 0 || ids.of[i] >= tile.row.length) continue;
    kept.of[i] = keeps(signs[ids.of[i]], rule.sequence_sign, rule.keep_neutral);
  }
  store_items(out.mask, first, tile.row.length, kept);
}

template <Reduce kReduce, class T, class C = compute_t<T>>
void launch_segment(const DeviceScope& device, const SegmentInput<T>& input, const Rows& rows, const SegmentOut& out) {
  const TileSchedule schedule{rows};
  const int64_t blocks = schedule.count();
  // Rows of a single tile need no aggregates.
  const int64_t words = rows.length <= kTile ? 0 : blocks * SegmentAggregates<kReduce, C>::kWords;
  const Tensor buffer = empty<int64_t>({words}, device);
  auto* aggregates = words == 0 ? nullptr : reinterpret_cast<uint64_t*>(mutable_data<int64_t>(buffer));
  if (aggregates != nullptr) {
    check_cuda("segment", "cudaMemsetAsync", cudaMemsetAsync(aggregates, 0, words * sizeof(uint64_t), device.stream()));
  }
  constexpr int kPerWarp = kWarp * kSegmentItems;
  const bool short_rows = !rows.packed() && rows.length < kTile;
  const int warps = short_rows ? static_cast<int>((rows.length + kPerWarp - 1) / kPerWarp) : kTile / kPerWarp;
  launch("segment", segment_kernel<kReduce, T>, blocks, kWarp * std::max(warps, 1), device.stream(), input, schedule,
         SegmentAggregates<kReduce, C>(aggregates, blocks), out);
}

class SegmentOnCuda : public DeviceScope {
 public:
  using DeviceScope::DeviceScope;

  RowsOf rows(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens) const {
    return {argument, tokens, cu_seqlens, *this};
  }

  template <class T>
  void run(Reduce reduce, const T* rewards, const bool* mask, const Rows& rows, const SegmentRules<compute_t<T>>& rules,
           const SegmentOut& out) const {
    const bool mask_from_signs = rules.want_mask && !rules.use_trigger;
    const int64_t tokens = rows.packed() ? rows.length : rows.count * rows.length;
    const Tensor all_signs = empty<int8_t>({mask_from_signs ? tokens : 0}, *this);
    const SegmentInput<T> input{rewards, mask, rules, reduce == Reduce::mean,
                                mask_from_signs ? mutable_data<int8_t>(all_signs) : nullptr};
    dispatch_reduce(reduce, [&]<Reduce kReduce>() {
      launch_segment<kReduce == Reduce::mean ? Reduce::sum : kReduce>(*this, input, rows, out);
    });
    if (!mask_from_signs) return;
    const TileSchedule schedule{rows};
    launch("segment", segment_mask_kernel<T>, schedule.count(), kThreads, stream(), input, schedule, out);
  }
};

}  // namespace

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment", TORCH_BOX(&segkernel::segment_tensors<segkernel::SegmentOnCuda>));
}
