// Barriers, warp operations, loads and stores, integer atomics. The last argument of barriers and warp operations is
// the call's source location, for error messages.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "block.h"
#include "vector_types.h"

// --- Barriers --------------------------------------------------------------------------------------------------------

inline void __syncthreads(emulation::Where where = emulation::Where::current()) {
  emulation::block_barrier("__syncthreads", false, where);
}
inline int __syncthreads_count(int predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::block_barrier("__syncthreads_count", predicate != 0, where);
}
inline int __syncthreads_or(int predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::block_barrier("__syncthreads_or", predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::block_barrier("__syncthreads_and", predicate == 0, where) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, emulation::Where where = emulation::Where::current()) {
  emulation::warp_ballot("__syncwarp", mask, false, where);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned, emulation::Where where = emulation::Where::current()) { emulation::nap(where); }

// --- Warp operations -------------------------------------------------------------------------------------------------

namespace emulation {

// Shuffles of 32- and 64-bit scalars, as CUDA has them.
template <class T>
T shuffle(const char* what, unsigned mask, T value, int source, const Where& where) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t given = 0;
  memcpy(&given, &value, sizeof(T));
  given = warp_exchange(what, mask, given, source, where);
  memcpy(&value, &given, sizeof(T));
  return value;
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              emulation::Where where = emulation::Where::current()) {
  const int lane = emulation::lane_of_thread();
  return emulation::shuffle("__shfl_sync", mask, value, (lane & -width) + (source & (width - 1)), where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 emulation::Where where = emulation::Where::current()) {
  const int lane = emulation::lane_of_thread();
  const int source = lane - static_cast<int>(delta);
  return emulation::shuffle("__shfl_up_sync", mask, value, source < (lane & -width) ? lane : source, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emulation::Where where = emulation::Where::current()) {
  const int lane = emulation::lane_of_thread();
  const int source = lane + static_cast<int>(delta);
  return emulation::shuffle("__shfl_down_sync", mask, value, source > (lane | (width - 1)) ? lane : source, lane,
                            where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  emulation::Where where = emulation::Where::current()) {
  const int lane = emulation::lane_of_thread();
  const int source = lane ^ lane_mask;
  return emulation::shuffle("__shfl_xor_sync", mask, value, source > (lane | (width - 1)) ? lane : source, where);
}

inline int __reduce_add_sync(unsigned mask, int value, emulation::Where where = emulation::Where::current()) {
  int sum = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) sum += emulation::shuffle("__reduce_add_sync", mask, value, lane, where);
  }
  return sum;
}

inline unsigned __ballot_sync(unsigned mask, int predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::warp_ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::warp_ballot("__any_sync", mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::warp_ballot("__all_sync", mask, predicate == 0, where) == 0;
}

// --- Bits ------------------------------------------------------------------------------------------------------------

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}

namespace emulation {

template <class To, class From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

}  // namespace emulation

inline unsigned __float_as_uint(float value) { return emulation::bits_as<unsigned>(value); }
inline int __float_as_int(float value) { return emulation::bits_as<int>(value); }
inline float __uint_as_float(unsigned value) { return emulation::bits_as<float>(value); }
inline float __int_as_float(int value) { return emulation::bits_as<float>(value); }
inline long long __double_as_longlong(double value) { return emulation::bits_as<long long>(value); }
inline double __longlong_as_double(long long value) { return emulation::bits_as<double>(value); }

// --- Memory ----------------------------------------------------------------------------------------------------------

namespace emulation {

// A misaligned access is an error on the device. The sanitizer detects one too, but without the location of the caller.
template <class T>
void check_aligned(const T* address, const Where& where) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) != 0)
    fail("accesses a misaligned address at " + place_of(where));
}

}  // namespace emulation

#define SK_LOAD(name)                                                              \
  template <class T>                                                               \
  T name(const T* address, emulation::Where where = emulation::Where::current()) { \
    emulation::check_aligned(address, where);                                      \
    return *address;                                                               \
  }
#define SK_STORE(name)                                                                                                \
  template <class T>                                                                                                  \
  void name(T* address, const std::type_identity_t<T>& value, emulation::Where where = emulation::Where::current()) { \
    emulation::check_aligned(address, where);                                                                         \
    *address = value;                                                                                                 \
  }
SK_LOAD(__ldg)
SK_LOAD(__ldca)
SK_LOAD(__ldcg)
SK_LOAD(__ldcs)
SK_LOAD(__ldlu)
SK_LOAD(__ldcv)
SK_STORE(__stwb)
SK_STORE(__stcg)
SK_STORE(__stcs)
SK_STORE(__stwt)
#undef SK_LOAD
#undef SK_STORE

// One thread runs at a time, so plain reads and writes are atomic.
namespace emulation {

template <class T, class Op>
T exchange_with(T* address, const Op& op) {
  static_assert(std::is_integral_v<T>);
  const T before = *address;
  *address = op(before);
  return before;
}

}  // namespace emulation

#define SK_ATOMIC(name, result)                                                      \
  template <class T>                                                                 \
  T name(T* address, std::type_identity_t<T> value) {                                \
    return emulation::exchange_with(address, [=](T before) -> T { return result; }); \
  }
SK_ATOMIC(atomicAdd, before + value)
SK_ATOMIC(atomicSub, before - value)
SK_ATOMIC(atomicMax, before > value ? before : value)
SK_ATOMIC(atomicMin, before < value ? before : value)
SK_ATOMIC(atomicAnd, before& value)
SK_ATOMIC(atomicOr, before | value)
SK_ATOMIC(atomicXor, before ^ value)
SK_ATOMIC(atomicExch, value)
#undef SK_ATOMIC
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> desired) {
  return emulation::exchange_with(address, [=](T before) { return before == expected ? desired : before; });
}
