// `segment`: a block per tile of a row reads its rewards once. What comes before a tile its block hears from the blocks
// of the row's earlier tiles, all of which run at the same time. How it adds that up depends on nothing but where the
// row's tokens are, and so do the bits of the sums.
#include <algorithm>

#include "../../cuda/lookback.cuh"
#include "../../cuda/tile_schedule.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/registration.h"
#include "segment_tensors.h"
#include "segment_tile.cuh"

namespace segkernel {

namespace {

// So that an H100 has the tiles of a row of a million tokens all at once.
constexpr int kBlocksPerMultiprocessor = 8;

template <class T>
struct SegmentInput {
  const T* rewards;
  const bool* mask;
  SegmentRules<compute_t<T>> rules;
  bool mean;
  int8_t* all_signs;  // one for every token, or null: with a mask but no trigger, for the mask

  __device__ int8_t* signs_of(const Row& row) const { return all_signs == nullptr ? nullptr : all_signs + row.begin; }
};

// A block's tile.
struct Tile {
  int64_t slot, row_index;
  int32_t index, of_row;  // which of how many of its row's
  Row row;

  __device__ explicit Tile(const RowSlots& slots)
      : slot(blockIdx.x), row_index(slots.row_of(slot)), row(slots.rows[row_index]) {
    index = static_cast<int32_t>(slot - slots.first_of(row_index));
    of_row = static_cast<int32_t>(RowSlots::tiles_of(row.length));
  }
  __device__ bool exists() const { return index >= 0 && index < of_row; }
  __device__ bool is_last() const { return index + 1 == of_row; }
  __device__ int64_t first_slot() const { return slot - index; }
  __device__ int64_t begin() const { return int64_t{index} * kTile; }
  __device__ int length() const { return is_last() ? static_cast<int>(row.length - begin()) : kTile; }
};

// What a tile tells the later ones of its row, if there can be any. How many segments start in it stands apart: that
// all of them ask for, the rest only the next as a rule. Every block tells something, one without a tile, too, so that
// offsets that are not in order cannot make another wait for ever.
template <Reduce kReduce, class C>
struct Told {
  struct Last {
    C folded;
    int32_t length;
    int32_t segments;
  };

  Published<Before<C>> before;
  Published<int32_t> segments;
  Published<Last> last;

  bool wanted;

  static constexpr int64_t kWords = Published<Before<C>>::kWords + Published<int32_t>::kWords + Published<Last>::kWords;

  // `words`: kWords for every slot, zeros, or null where all rows are one tile.
  Told(uint64_t* words, int64_t slots)
      : before(words),
        segments(words + slots * Published<Before<C>>::kWords),
        last(words + slots * (Published<Before<C>>::kWords + Published<int32_t>::kWords)),
        wanted(words != nullptr) {}

  __device__ void publish(int64_t slot, const Before<C>& of_tile) const {
    if (wanted && threadIdx.x == 0) before.publish(slot, of_tile);
  }
  __device__ void publish(int64_t slot, const Open<kReduce, C>& of_tile) const {
    if (!wanted || threadIdx.x != 0) return;
    segments.publish(slot, of_tile.segments);
    last.publish(slot, {of_tile.folded, of_tile.length, of_tile.segments});
  }
  __device__ Open<kReduce, C> open_of(int64_t slot) const {
    const Last told = last.wait_for(slot);
    return {told.segments, told.length, told.folded};
  }
};

// What comes before a tile, from the tiles before it: the nearest first, until they say it all.
template <class C>
__device__ Before<C> before_tile(const Tile& tile, const SegmentRule<C>& rule, const Published<Before<C>>& told) {
  Before<C> known = Before<C>::nothing();
  if (!rule.use_trigger) known.transition = static_cast<int16_t>(rule.initial);
  for (int64_t end = tile.index; end > 0 && !(known.any && known.transition != kUnchanged); end -= kSegmentThreads) {
    const int64_t index = end - kSegmentThreads + threadIdx.x;
    const Before<C> mine = index >= 0 ? told.wait_for(tile.first_slot() + index) : Before<C>::nothing();
    known = then_before(scan_before(mine).all, known);
  }
  return known;
}

// All tokens before a tile, from the tiles before it.
template <Reduce kReduce, class C>
__device__ Open<kReduce, C> open_before_tile(const Tile& tile, const Told<kReduce, C>& told) {
  constexpr int kAtOnce = 4;
  struct Starts {
    int32_t count;
    int64_t last;  // the last tile in which a segment starts, or -1
  } mine{0, -1};
  const int64_t previous = tile.slot - 1;
  const Open<kReduce, C> of_previous = told.open_of(previous);  // where the open segment started, as a rule
  for (int64_t slot = tile.first_slot() + threadIdx.x; slot < tile.slot; slot += kAtOnce * kSegmentThreads) {
    int32_t starts[kAtOnce];
    told.segments.wait_for(starts, slot, kSegmentThreads, tile.slot, 0);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      mine.count += starts[i];
      if (starts[i] > 0) mine.last = slot + i * kSegmentThreads;
    }
  }
  const Starts all = block_reduce<kSegmentThreads>(mine, Starts{0, -1}, [](const Starts& a, const Starts& b) {
    return Starts{a.count + b.count, a.last > b.last ? a.last : b.last};
  });
  if (all.last < 0) return Open<kReduce, C>::nothing();
  auto open = Open<kReduce, C>::nothing();
  if (all.last == previous) {
    open = of_previous;
  } else {
    for (int64_t slot = all.last + threadIdx.x; slot - threadIdx.x < tile.slot; slot += kSegmentThreads) {
      const auto mine = slot < tile.slot ? told.open_of(slot) : Open<kReduce, C>::nothing();
      const auto opens = block_scan<kSegmentThreads>(mine, Open<kReduce, C>::nothing(), then_open<kReduce, C>);
      open = then_open(open, opens.all);
    }
  }
  open.segments = all.count;
  return open;
}

// Writes the segments that ended in a tile: `first` is the row's number of the first, of which `earlier` tokens lie
// before the tile.
template <class C>
__device__ void write_ended(const EndedSegments<C>& ended, int count, int32_t first, int32_t earlier,
                            int64_t row_length, bool mean, const SegmentRule<C>& rule, const SegmentRowOut& out,
                            int8_t* all_signs) {
  // Nothing ends where the row's first segment starts; and no offsets make a row have more segments than tokens.
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

// Zeros in a row's outputs from `first` to `last`: one by one up to where memory is aligned, then in whole vectors.
__device__ void clear_segments(const SegmentRowOut& out, int64_t first, int64_t last) {
  const auto address = reinterpret_cast<uintptr_t>(out.lengths + first);
  const int past_aligned = static_cast<int>(address / sizeof(int32_t) % kItems);
  const int64_t aligned = first + (kItems - past_aligned) % kItems;
  const int64_t single = first + threadIdx.x;
  if (single < aligned && single < last) {
    out.lengths[single] = 0;
    out.rewards[single] = 0;
    out.signs[single] = 0;
  }
#pragma unroll 1
  for (int64_t k = aligned + threadIdx.x * kItems; k < last; k += blockDim.x * kItems) {
    store_items(out.lengths, k, last, Items<int32_t>{});
    store_items(out.rewards, k, last, Items<float>{});
    store_items(out.signs, k, last, Items<int8_t>{});
  }
}

template <Reduce kReduce, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kSegmentThreads, kBlocksPerMultiprocessor)
    segment_kernel(SegmentInput<T> input, RowSlots slots, Told<kReduce, C> told, SegmentOut all) {
  const Tile tile(slots);
  if (!tile.exists()) {
    told.publish(tile.slot, Before<C>::nothing());
    told.publish(tile.slot, Open<kReduce, C>::nothing());
    return;
  }
  const SegmentRule<C> rule = input.rules[tile.row_index];
  const int64_t position = tile.row.begin + tile.begin();
  SegmentTokens<kReduce, T> tokens(input.rewards + position, input.mask == nullptr ? nullptr : input.mask + position,
                                   tile.length(), rule);

  const Scanned<Before<C>> befores = scan_before(tokens.before());
  told.publish(tile.slot, befores.all);
  Before<C> before{0, false, static_cast<int16_t>(rule.initial)};
  if (tile.index > 0) before = then_before(before, before_tile(tile, rule, told.before));

  const auto opens = scan_open(tokens.open(then_before(before, befores.before)), tokens.count());
  told.publish(tile.slot, opens.all);
  auto open = Open<kReduce, C>::nothing();
  if (tile.index > 0) open = open_before_tile(tile, told);

  __shared__ EndedSegments<C> ended;
  const auto row = then_open(open, opens.all);
  tokens.write(then_open(open, opens.before), open.segments, opens.tokens_before, all.ids + position,
               rule.want_mask && rule.use_trigger ? all.mask + position : nullptr, ended);
  if (tile.is_last() && threadIdx.x == blockDim.x - 1) {
    tokens.end_row(row, open.segments, opens.tokens, ended);
    all.counts[tile.row_index] = row.segments;
  }
  __syncthreads();
  const SegmentRowOut out = all.row(tile.row_index, tile.row);
  write_ended(ended, opens.all.segments + tile.is_last(), open.segments - 1, open.length, tile.row.length, input.mean,
              rule, out, input.signs_of(tile.row));
  // A row of T tokens has at most T segments. What this tile's tokens leave of their share, the last places that may
  // still have been taken before them, stays empty.
  const int64_t last = tile.row.length - tile.begin() + open.segments;
  clear_segments(out, last - tile.length() + opens.all.segments,
                 tile.index == 0 || last > out.capacity ? out.capacity : last);
}

// Without a trigger, a segment's sign is known only when it ends: the mask follows from the signs.
template <class T>
__global__ void __launch_bounds__(kThreads) segment_mask_kernel(SegmentInput<T> input, RowSlots slots, SegmentOut all) {
  const Tile tile(slots);
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
  const RowSlots slots{rows};
  const int64_t count = slots.count();
  // A tile that is its whole row tells nobody.
  const int64_t words = rows.length <= kTile ? 0 : count * Told<kReduce, C>::kWords;
  const Tensor room = empty<int64_t>({words}, device);
  auto* told = words == 0 ? nullptr : static_cast<uint64_t*>(room.mutable_data_ptr());
  if (told != nullptr) {
    check_cuda("segment", "cudaMemsetAsync", cudaMemsetAsync(told, 0, words * sizeof(uint64_t), device.stream()));
  }
  constexpr int kPerWarp = kWarp * kSegmentItems;
  const bool short_rows = !rows.packed() && rows.length < kTile;
  const int warps = short_rows ? static_cast<int>((rows.length + kPerWarp - 1) / kPerWarp) : kTile / kPerWarp;
  launch("segment", segment_kernel<kReduce, T>, count, kWarp * std::max(warps, 1), device.stream(), input, slots,
         Told<kReduce, C>(told, count), out);
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
    switch (reduce) {
      case Reduce::last:
        launch_segment<Reduce::last>(*this, input, rows, out);
        break;
      case Reduce::max:
        launch_segment<Reduce::max>(*this, input, rows, out);
        break;
      case Reduce::min:
        launch_segment<Reduce::min>(*this, input, rows, out);
        break;
      default:
        launch_segment<Reduce::sum>(*this, input, rows, out);
    }
    if (!mask_from_signs) return;
    const RowSlots slots{rows};
    launch("segment", segment_mask_kernel<T>, slots.count(), kThreads, stream(), input, slots, out);
  }
};

}  // namespace

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("segment", TORCH_BOX(&segkernel::segment_tensors<segkernel::SegmentOnCuda>));
}
