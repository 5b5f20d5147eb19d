// Where blocks share out long rows among them: a slot is a tile of a row, or empty. A slot's number says which, with
// nothing known on the host but how many tokens there are.
#pragma once

#include "../rows.h"
#include "row_tiles.h"

namespace segkernel {

// Row b of packed rows has the slots from cu_seqlens[b] / kTile + b on: enough for its tiles, at least one, and none of
// another row's.
struct RowSlots {
  Rows rows;

  SK_HOST_DEVICE int64_t count() const {
    return rows.packed() ? rows.length / kTile + rows.count : rows.count * tiles_of(rows.length);
  }

  SK_HOST_DEVICE int64_t first_of(int64_t row) const {
    return rows.packed() ? rows[row].begin / kTile + row : row * tiles_of(rows.length);
  }

  __device__ int64_t row_of(int64_t slot) const {
    if (!rows.packed()) return slot / tiles_of(rows.length);
    int64_t low = 0;
    int64_t high = rows.count;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (first_of(middle) <= slot ? low : high) = middle;
    }
    return low;
  }

  // An empty row has one tile, of no tokens.
  static SK_HOST_DEVICE int64_t tiles_of(int64_t length) { return length <= kTile ? 1 : (length + kTile - 1) / kTile; }
};

}  // namespace segkernel
