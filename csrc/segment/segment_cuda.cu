// `segment`. With many rows, a block per row reads its rewards once, carrying what is open from tile to tile. With few
// and long ones, a block per tile: two passes find what comes before every tile, a third writes. Both associate sums in
// the same way, so that the choice does not show in the results.
#include "../cuda/device.h"
#include "../cuda/row_slots.h"
#include "segment_scan.h"
#include "segment_tensors.h"

namespace segkernel {

namespace {

template <class T>
struct SegmentInput {
  const T* rewards;
  const bool* mask;
  SegmentRules<compute_t<T>> rules;
  bool mean;
  int8_t* all_signs;  // one for every token, or null: with a mask but no trigger, for the mask

  __device__ SegmentEnding ending(const Row& row) const {
    return {mean, all_signs == nullptr ? nullptr : all_signs + row.begin};
  }
};

template <class C>
__device__ Before<C> at_row_start(const SegmentRule<C>& rule) {
  return {{}, rule.initial};
}

// Zeros in a row's outputs from `first` to `last`.
__device__ void clear_segments(const SegmentRowOut& out, int64_t first, int64_t last) {
  for (int64_t k = first + threadIdx.x; k < last; k += kThreads) {
    out.lengths[k] = 0;
    out.rewards[k] = 0;
    out.signs[k] = 0;
  }
}

template <Reduce kReduce, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads) segment_rows_kernel(SegmentInput<T> input, Rows rows, SegmentOut all) {
  const int64_t b = blockIdx.x;
  const Row row = rows[b];
  const SegmentRule<C> rule = input.rules[b];
  const SegmentRowOut out = all.row(b, row);
  Before<C> before = at_row_start(rule);
  Open<C> open = Open<C>::nothing();
  for (int64_t tile = 0; tile < row.length; tile += kTile) {
    const SegmentTokens<kReduce, T> tokens(input.rewards, input.mask, row, tile + threadIdx.x * kItems, rule);
    const auto befores = block_scan<kThreads>(tokens.before(), Before<C>::nothing(), then_before<C>);
    const Before<C> before_mine = then_before(before, befores.before);
    const auto opens = block_scan<kThreads>(tokens.open(before_mine), Open<C>::nothing(), then_open<kReduce, C>);
    tokens.write(before_mine, then_open<kReduce>(open, opens.before), out, input.ending(row));
    before = then_before(before, befores.all);
    open = then_open<kReduce>(open, opens.all);
  }
  if (threadIdx.x == 0) {
    SegmentTokens<kReduce, T>::write_segment(open, before.transition, rule, out, input.ending(row));
    all.counts[b] = open.segments;
  }
  clear_segments(out, open.segments, out.capacity);
}

// A block's tile, when blocks share out rows.
struct Tile {
  int64_t slot, row_index, index, first_slot;
  Row row;

  __device__ explicit Tile(const RowSlots& slots)
      : slot(blockIdx.x),
        row_index(slots.row_of(slot)),
        first_slot(slots.first_of(row_index)),
        row(slots.rows[row_index]) {
    index = slot - first_slot;
  }
  __device__ int64_t begin() const { return index * kTile; }
  __device__ bool exists() const { return index < RowSlots::tiles_of(row.length); }
  __device__ bool is_last() const { return index + 1 == RowSlots::tiles_of(row.length); }
};

// Of each slot's tokens; and then of everything before them in the row, the initial state included.
template <class C>
struct TileStates {
  Before<C>* of_tile;
  Before<C>* before_tile;
  Open<C>* open_of_tile;
};

template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    segment_before_kernel(SegmentInput<T> input, RowSlots slots, TileStates<C> states) {
  const Tile tile(slots);
  if (!tile.exists()) return;
  const SegmentRule<C> rule = input.rules[tile.row_index];
  const SegmentTokens<Reduce::last, T> tokens(input.rewards, input.mask, tile.row, tile.begin() + threadIdx.x * kItems,
                                              rule);
  const auto befores = block_scan<kThreads>(tokens.before(), Before<C>::nothing(), then_before<C>);
  if (threadIdx.x == 0) states.of_tile[tile.slot] = befores.all;
}

// What comes before a tile, from the tiles before it: the nearest first, until they say it all.
template <class C>
__device__ Before<C> before_tile(const Tile& tile, const SegmentRule<C>& rule, const Before<C>* of_tile) {
  Before<C> known = Before<C>::nothing();
  for (int64_t end = tile.index; end > 0 && !(known.reward.any && known.transition != kUnchanged); end -= kThreads) {
    const int64_t index = end - kThreads + threadIdx.x;
    const Before<C> mine = index >= 0 ? of_tile[tile.first_slot + index] : Before<C>::nothing();
    known = then_before(block_scan<kThreads>(mine, Before<C>::nothing(), then_before<C>).all, known);
  }
  return then_before(at_row_start(rule), known);
}

template <Reduce kReduce, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    segment_open_kernel(SegmentInput<T> input, RowSlots slots, TileStates<C> states) {
  const Tile tile(slots);
  if (!tile.exists()) return;
  const SegmentRule<C> rule = input.rules[tile.row_index];
  const SegmentTokens<kReduce, T> tokens(input.rewards, input.mask, tile.row, tile.begin() + threadIdx.x * kItems,
                                         rule);
  const Before<C> before = before_tile(tile, rule, states.of_tile);
  const auto befores = block_scan<kThreads>(tokens.before(), Before<C>::nothing(), then_before<C>);
  const Open<C> mine = tokens.open(then_before(before, befores.before));
  const auto opens = block_scan<kThreads>(mine, Open<C>::nothing(), then_open<kReduce, C>);
  if (threadIdx.x == 0) {
    states.before_tile[tile.slot] = before;
    states.open_of_tile[tile.slot] = opens.all;
  }
}

struct SegmentCounts {
  int32_t before_tile, of_row;
  int64_t last_start;  // the last tile before this one in which a segment starts, or -1
};

template <class C>
__device__ SegmentCounts count_segments(const Tile& tile, const Open<C>* open_of_tile) {
  SegmentCounts counts{0, 0, -1};
  for (int64_t index = threadIdx.x; index < RowSlots::tiles_of(tile.row.length); index += kThreads) {
    const int32_t starts = open_of_tile[tile.first_slot + index].segments;
    counts.of_row += starts;
    if (index >= tile.index) continue;
    counts.before_tile += starts;
    if (starts > 0) counts.last_start = index;
  }
  return block_reduce<kThreads>(counts, SegmentCounts{0, 0, -1}, [](const SegmentCounts& a, const SegmentCounts& b) {
    return SegmentCounts{a.before_tile + b.before_tile, a.of_row + b.of_row,
                         a.last_start > b.last_start ? a.last_start : b.last_start};
  });
}

template <Reduce kReduce, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads)
    segment_write_kernel(SegmentInput<T> input, RowSlots slots, TileStates<C> states, SegmentOut all) {
  const Tile tile(slots);
  if (!tile.exists()) return;
  const int64_t b = tile.row_index;
  const SegmentRule<C> rule = input.rules[b];
  const SegmentRowOut out = all.row(b, tile.row);
  const SegmentTokens<kReduce, T> tokens(input.rewards, input.mask, tile.row, tile.begin() + threadIdx.x * kItems,
                                         rule);
  const SegmentCounts counts = count_segments(tile, states.open_of_tile);
  // One tile after the other, as the block of a whole row adds them up.
  Open<C> open = Open<C>::nothing();
  for (int64_t index = counts.last_start; index >= 0 && index < tile.index; ++index) {
    open = then_open<kReduce>(open, states.open_of_tile[tile.first_slot + index]);
  }
  open.segments = counts.before_tile;

  const Before<C> before = states.before_tile[tile.slot];
  const auto befores = block_scan<kThreads>(tokens.before(), Before<C>::nothing(), then_before<C>);
  const Before<C> before_mine = then_before(before, befores.before);
  const auto opens = block_scan<kThreads>(tokens.open(before_mine), Open<C>::nothing(), then_open<kReduce, C>);
  tokens.write(before_mine, then_open<kReduce>(open, opens.before), out, input.ending(tile.row));
  if (tile.is_last() && threadIdx.x == 0) {
    SegmentTokens<kReduce, T>::write_segment(then_open<kReduce>(open, opens.all),
                                             then_before(before, befores.all).transition, rule, out,
                                             input.ending(tile.row));
    all.counts[b] = counts.of_row;
  }
  const int64_t first = tile.begin() > counts.of_row ? tile.begin() : counts.of_row;
  const int64_t last = tile.is_last() || tile.begin() + kTile > out.capacity ? out.capacity : tile.begin() + kTile;
  clear_segments(out, first, last);
}

// Without a trigger, a segment's sign is known only when it ends: the mask follows from the signs.
template <class T>
__global__ void __launch_bounds__(kThreads) segment_mask_kernel(SegmentInput<T> input, RowSlots slots, SegmentOut all) {
  const Tile tile(slots);
  if (!tile.exists()) return;
  const SegmentRowOut out = all.row(tile.row_index, tile.row);
  const auto rule = input.rules[tile.row_index];
  const int8_t* signs = input.ending(tile.row).all_signs;
  const int64_t first = tile.begin() + threadIdx.x * kItems;
  const Items<int32_t> ids = load_items(out.ids, first, tile.row.length);
  Items<bool> kept{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (first + i >= tile.row.length || ids.of[i] < 0) continue;
    kept.of[i] = keeps(signs[ids.of[i]], rule.sequence_sign, rule.keep_neutral);
  }
  store_items(out.mask, first, tile.row.length, kept);
}

template <Reduce kReduce, class T, class C = compute_t<T>>
void launch_segment(const DeviceScope& device, const SegmentInput<T>& input, const Rows& rows, const SegmentOut& out) {
  const cudaStream_t stream = device.stream();
  const int64_t mean_length = rows.packed() && rows.count > 0 ? rows.length / rows.count : rows.length;
  if (mean_length <= kTile || rows.count >= device.multiprocessors()) {
    launch("segment", segment_rows_kernel<kReduce, T>, rows.count, kThreads, stream, input, rows, out);
    return;
  }
  const RowSlots slots{rows};
  const int64_t count = slots.count();
  const auto room_for = [&]<class E>(E*& states) {
    Tensor room = empty<int8_t>({count * static_cast<int64_t>(sizeof(E))}, device);
    states = static_cast<E*>(room.mutable_data_ptr());
    return room;
  };
  TileStates<C> states;
  const Tensor of_tile = room_for(states.of_tile);
  const Tensor before_tile = room_for(states.before_tile);
  const Tensor open_of_tile = room_for(states.open_of_tile);
  launch("segment", segment_before_kernel<T>, count, kThreads, stream, input, slots, states);
  launch("segment", segment_open_kernel<kReduce, T>, count, kThreads, stream, input, slots, states);
  launch("segment", segment_write_kernel<kReduce, T>, count, kThreads, stream, input, slots, states, out);
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
  library.impl("segment.numbers", TORCH_BOX(&segkernel::segment_tensors_by_numbers<segkernel::SegmentOnCuda>));
}
