// Map from blockIdx to (row, tile) for rows of several tiles, computed on the device without a host sync. The grid is
// sized from the token count; surplus blocks have no tile.
#pragma once

#include "../core/rows.h"
#include "lookback.cuh"
#include "row_tiles.cuh"

namespace segkernel {

// The blocks of packed row b begin at cu_seqlens[b] / kTile + b: at least one per row, as many as it has tiles, and
// none shared with another row.
struct TileSchedule {
  Rows rows;

  SK_HOST_DEVICE int64_t count() const {
    if (rows.count == 0) return 0;
    return rows.packed() ? rows.length / kTile + rows.count : rows.count * tiles_of(rows.length);
  }

  SK_HOST_DEVICE int64_t first_block_of(int64_t row) const {
    return rows.packed() ? rows[row].begin / kTile + row : row * tiles_of(rows.length);
  }

  // Called by all lanes of a warp.
  __device__ int64_t row_of(int64_t block) const {
    if (!rows.packed()) {
      const auto tiles = static_cast<uint32_t>(tiles_of(rows.length));
      return tiles == 1 ? block : static_cast<uint32_t>(block) / tiles;
    }
    // 32-ary search for the last row whose first block is at or before `block`.
    int64_t low = 0;
    for (int64_t span = rows.count; span > 1;) {
      const int64_t step = (span + kWarp - 1) / kWarp;
      const int64_t candidate = low + lane_index() * step;
      const bool begun = candidate < low + span && first_block_of(candidate) <= block;
      // Lane 0 counts as begun even with malformed offsets.
      const int64_t chosen = last_lane(__ballot_sync(kAllLanes, begun) | 1);
      low += chosen * step;
      span = span - chosen * step < step ? span - chosen * step : step;
    }
    return low;
  }

  // An empty row has one tile without tokens.
  static SK_HOST_DEVICE int64_t tiles_of(int64_t length) { return length <= kTile ? 1 : (length + kTile - 1) / kTile; }
};

// The tile of a thread block.
struct Tile {
  int64_t block, row_index;
  int32_t index, count;  // position among the row's `count` tiles
  Row row;

  __device__ explicit Tile(const TileSchedule& schedule)
      : block(blockIdx.x), row_index(schedule.row_of(block)), row(schedule.rows[row_index]) {
    index = static_cast<int32_t>(block - schedule.first_block_of(row_index));
    count = static_cast<int32_t>(TileSchedule::tiles_of(row.length));
  }
  __device__ bool exists() const { return index >= 0 && index < count; }
  __device__ bool is_last() const { return index + 1 == count; }
  __device__ int64_t first_block() const { return block - index; }
  __device__ int64_t begin() const { return int64_t{index} * kTile; }
  // The first token when tiles are processed from the row's end.
  __device__ int64_t begin_from_end() const { return int64_t{count - 1 - index} * kTile; }
  __device__ int length() const { return is_last() ? static_cast<int>(row.length - begin()) : kTile; }
};

// The aggregates of all earlier tiles of the row, combined.
template <int kThreads, class T, class Op>
__device__ inline T look_back(const TileAggregates<T>& aggregates, const Tile& tile, const T& identity, const Op& op) {
  return tile.index == 0 ? identity : look_back<kThreads>(aggregates, tile.first_block(), tile.block, identity, op);
}

// The same for tiles that are processed from the row's end: padding at the end does not change floating-point results.
template <int kThreads, class T, class Op>
__device__ inline T look_back_by_distance(const TileAggregates<T>& aggregates, const Tile& tile, const T& identity,
                                          const Op& op) {
  return look_back_by_distance<kThreads>(aggregates, tile.first_block(), tile.block, identity, op);
}

}  // namespace segkernel
