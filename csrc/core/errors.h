// Errors of the operators: "argument: expected X, got Y", thrown as std::invalid_argument, which becomes a ValueError.
#pragma once

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "rows.h"

namespace segkernel {

// A part of a message as text, numbers as "%g" and "%d" print them. Not a std::ostream: in a library that is linked
// with -static-libstdc++, as some toolchains do, its locale can come from the other libstdc++ of the process, and
// printing a double crashes.
template <class Part>
std::string text(const Part& part) {
  if constexpr (std::is_floating_point_v<Part>) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
    return digits;
  } else if constexpr (std::is_integral_v<Part>) {
    return std::to_string(part);
  } else {
    return std::string(part);
  }
}

template <class... Parts>
[[noreturn]] void fail(const char* argument, const Parts&... parts) {
  throw std::invalid_argument(((std::string(argument) + ": ") + ... + text(parts)));
}

template <class... Parts>
void check(bool condition, const char* argument, const Parts&... parts) {
  if (!condition) fail(argument, parts...);
}

// cu_seqlens [B + 1] must start at 0, never decrease, and end at the number of packed tokens.
inline void check_cu_seqlens(const char* argument, Offsets cu_seqlens, int64_t rows, int64_t tokens) {
  check(cu_seqlens[0] == 0, argument, "expected to start at 0, got ", cu_seqlens[0]);
  for (int64_t row = 0; row < rows; ++row) {
    check(cu_seqlens[row] <= cu_seqlens[row + 1], argument, "expected non-decreasing offsets, got ", cu_seqlens[row],
          " then ", cu_seqlens[row + 1], " at index ", row + 1);
  }
  check(cu_seqlens[rows] == tokens, argument, "expected to end at the number of packed tokens, ", tokens, ", got ",
        cu_seqlens[rows]);
}

template <class T>
void check_not_negative(const char* argument, PerRow<T> parameter, int64_t rows) {
  for (int64_t row = 0; row < (parameter.rows == nullptr ? 1 : rows); ++row) {
    check(parameter[row] >= 0, argument, "expected >= 0, got ", parameter[row]);
  }
}

inline void check_share(const char* argument, PerRow<double> shares, int64_t rows) {
  for (int64_t row = 0; row < (shares.rows == nullptr ? 1 : rows); ++row) {
    const double share = shares[row];
    check(share >= 0 && share <= 1, argument, "expected 0 <= ", argument, " <= 1, got ", share);
  }
}

template <class T>
void check_ordered(PerRow<T> low, PerRow<T> high, int64_t rows) {
  for (int64_t row = 0; row < (low.rows == nullptr && high.rows == nullptr ? 1 : rows); ++row) {
    check(low[row] <= high[row], "low", "expected low <= high, got low = ", low[row], ", high = ", high[row],
          low.rows == nullptr && high.rows == nullptr ? std::string() : " at row " + std::to_string(row));
  }
}

inline void check_states(const char* argument, PerRow<int8_t> states, int64_t rows) {
  for (int64_t row = 0; row < (states.rows == nullptr ? 1 : rows); ++row) {
    check(states[row] >= -1 && states[row] <= 1, argument, "expected -1, 0 or +1, got ", int{states[row]});
  }
}

}  // namespace segkernel
