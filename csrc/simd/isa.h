// The instruction set of the kernels, chosen at their first call.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace segkernel {

enum class Isa { baseline, avx2, avx512 };

inline const char* name_of(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline"; }

#if defined(__x86_64__)
// clang before 18 has no `__builtin_cpu_supports("f16c")`.
inline bool supports_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

inline Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("bmi2") && supports_f16c()) {
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? Isa::avx512 : Isa::avx2;
  }
#endif
  return Isa::baseline;
}

// SEGKERNEL_ISA=baseline|avx2|avx512 lowers the choice, for tests and comparisons; it never raises it.
inline Isa chosen_isa() {
  static const Isa chosen = [] {
    const Isa best = best_isa();
    const char* wanted = std::getenv("SEGKERNEL_ISA");
    for (const Isa isa : {Isa::baseline, Isa::avx2}) {
      if (wanted != nullptr && std::strcmp(wanted, name_of(isa)) == 0 && isa < best) return isa;
    }
    return best;
  }();
  return chosen;
}

}  // namespace segkernel
