// Where blocks share out long rows among them: a slot is a tile of a row, or empty. A slot's number says which, with
// nothing known on the host but how many tokens there are.
#pragma once

#include "../core/rows.h"
#include "row_tiles.cuh"

namespace segkernel {

// Row b of packed rows has the slots from cu_seqlens[b] / kTile + b on: enough for its tiles, at least one, and none of
// another row's.
struct RowSlots {
  Rows rows;

  SK_HOST_DEVICE int64_t count() const {
    if (rows.count == 0) return 0;
    return rows.packed() ? rows.length / kTile + rows.count : rows.count * tiles_of(rows.length);
  }

  SK_HOST_DEVICE int64_t first_of(int64_t row) const {
    return rows.packed() ? rows[row].begin / kTile + row : row * tiles_of(rows.length);
  }

  // Called by all lanes of a warp.
  __device__ int64_t row_of(int64_t slot) const {
    if (!rows.packed()) {
      const auto tiles = static_cast<uint32_t>(tiles_of(rows.length));
      return tiles == 1 ? slot : static_cast<uint32_t>(slot) / tiles;
    }
    // The last row that begins at the slot or before, 32 candidates at a time.
    int64_t low = 0;
    for (int64_t span = rows.count; span > 1;) {
      const int64_t step = (span + kWarp - 1) / kWarp;
      const int64_t candidate = low + lane_index() * step;
      const bool begun = candidate < low + span && first_of(candidate) <= slot;
      // The first of them at least, wherever offsets start.
      const int64_t chosen = last_lane(__ballot_sync(kAllLanes, begun) | 1);
      low += chosen * step;
      span = span - chosen * step < step ? span - chosen * step : step;
    }
    return low;
  }

  // An empty row has one tile, of no tokens.
  static SK_HOST_DEVICE int64_t tiles_of(int64_t length) { return length <= kTile ? 1 : (length + kTile - 1) / kTile; }
};

}  // namespace segkernel
