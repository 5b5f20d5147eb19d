// Handlers that GCC and clang call for -fsanitize=alignment,bounds,signed-integer-overflow. In a kernel they end the
// launch with an error. (Under AddressSanitizer libubsan's handlers are used.)
#include <cstdint>

#include "block.h"

namespace {

// The common beginning of the data of all handlers.
struct Site {
  const char* file;
  uint32_t line;
  uint32_t column;
};

[[noreturn]] void report(const Site* site, const char* what) {
  const std::string path = site->file == nullptr ? "?" : site->file;
  emulation::fail(what + (" at " + path.substr(path.find_last_of('/') + 1)) + ":" + std::to_string(site->line));
}

}  // namespace

#define SK_HANDLER(name, what, ...)                                                                              \
  extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name(const Site* site, ##__VA_ARGS__) { \
    report(site, what);                                                                                          \
  }                                                                                                              \
  extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name##_abort(                           \
      const Site* site, ##__VA_ARGS__) {                                                                         \
    report(site, what);                                                                                          \
  }

SK_HANDLER(type_mismatch_v1, "accesses a misaligned address", uintptr_t)
SK_HANDLER(out_of_bounds, "indexes past the end of an array", uintptr_t)
SK_HANDLER(add_overflow, "overflows an integer", uintptr_t, uintptr_t)
SK_HANDLER(sub_overflow, "overflows an integer", uintptr_t, uintptr_t)
SK_HANDLER(mul_overflow, "overflows an integer", uintptr_t, uintptr_t)
SK_HANDLER(negate_overflow, "overflows an integer", uintptr_t)
SK_HANDLER(divrem_overflow, "overflows an integer", uintptr_t, uintptr_t)
