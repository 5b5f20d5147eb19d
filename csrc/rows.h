// What a row is: one sequence, padded ([B, T]) or packed ([N] with cu_seqlens), of which some positions are valid.
#pragma once

#include <cstdint>

#include "floats.h"

namespace segkernel {

struct Row {
  int64_t begin;  // position of the row's first token in the flat data
  int64_t length;
};

struct Rows {
  int64_t count;              // B
  int64_t length;             // T, padded rows only
  const int64_t* cu_seqlens;  // [B + 1], packed rows only, else null

  SK_HOST_DEVICE Row operator[](int64_t row) const {
    if (cu_seqlens == nullptr) return {row * length, length};
    return {cu_seqlens[row], cu_seqlens[row + 1] - cu_seqlens[row]};
  }
};

// A parameter that is one number for all rows, or one per row.
template <class T>
struct PerRow {
  T value;
  const T* rows;  // [B] or null

  SK_HOST_DEVICE T operator[](int64_t row) const { return rows == nullptr ? value : rows[row]; }
};

// Whether a position of the row holds a token. `mask` points at the row's first position, or is null: all valid.
SK_HOST_DEVICE inline bool is_valid(const bool* mask, int64_t position) { return mask == nullptr || mask[position]; }

}  // namespace segkernel
