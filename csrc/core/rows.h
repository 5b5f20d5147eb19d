// Rows: sequences, padded ([B, T]) or packed ([N] with cu_seqlens), with valid and masked positions.
#pragma once

#include <cstdint>

#include "dtypes.h"

namespace segkernel {

struct Row {
  int64_t begin;  // position of the row's first token in the flat data
  int64_t length;
};

// cu_seqlens [B + 1], int32 or int64. Both are null for padded rows.
struct Offsets {
  const int64_t* as_int64 = nullptr;
  const int32_t* as_int32 = nullptr;

  SK_HOST_DEVICE int64_t operator[](int64_t index) const {
    return as_int64 != nullptr ? as_int64[index] : int64_t{as_int32[index]};
  }
};

struct Rows {
  int64_t count;   // B
  int64_t length;  // T of padded rows, N of packed ones
  Offsets cu_seqlens;

  SK_HOST_DEVICE bool packed() const { return cu_seqlens.as_int64 != nullptr || cu_seqlens.as_int32 != nullptr; }

  // Offsets on a GPU cannot be checked without a host sync. Clamping makes malformed offsets give wrong rows, but no
  // access out of bounds.
  SK_HOST_DEVICE Row operator[](int64_t row) const {
    if (!packed()) return {row * length, length};
    const int64_t begin = within_tokens(cu_seqlens[row]);
    const int64_t end = within_tokens(cu_seqlens[row + 1]);
    return {begin, end < begin ? 0 : end - begin};
  }

 private:
  SK_HOST_DEVICE int64_t within_tokens(int64_t offset) const {
    return offset < 0 ? 0 : offset > length ? length : offset;
  }
};

// A parameter: a scalar for all rows, or one value per row.
template <class T>
struct PerRow {
  T value;
  const T* rows;  // [B] or null

  SK_HOST_DEVICE T operator[](int64_t row) const { return rows == nullptr ? value : rows[row]; }
};

// Whether a position of a row is valid. `mask` points to the row's first position, or is null: all positions are valid.
SK_HOST_DEVICE inline bool is_valid(const bool* mask, int64_t position) { return mask == nullptr || mask[position]; }

}  // namespace segkernel
