// What valid_*.h do with vectors, token by token: for the tokens after a row's last whole block.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../core/dtypes.h"
#include "inline.h"

namespace segkernel {

// Of the tokens from `t` on, after `count` valid ones. Returns how many there are then.
template <class T, class Together>
SK_INLINE int64_t move_rest_together(const T* values, const bool* mask, int64_t t, int64_t length, int64_t count,
                                     Together* together) {
  for (; t < length; ++t) {
    if constexpr (std::is_same_v<T, Together>) {
      together[count] = values[t];
    } else {
      together[count] = widen(values[t]);
    }
    count += mask[t];
  }
  return count;
}

// Of the tokens from the end to `begin`. Returns how many of `count` valid ones lie before.
SK_INLINE int64_t move_rest_back(const bool* mask, int64_t begin, int64_t length, int64_t count, int32_t* ids,
                                 bool* flags) {
  for (int64_t t = length; t > begin; --t) {
    const bool valid = mask[t - 1];
    count -= valid;
    ids[t - 1] = valid ? ids[count] : -1;
    if (flags != nullptr) flags[t - 1] = valid && flags[count];
  }
  return count;
}

}  // namespace segkernel
