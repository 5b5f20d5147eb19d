#include "shared_memory.h"

#include <link.h>

#include <cstdint>
#include <cstring>
#include <thread>

namespace emulation {

#if defined(__SANITIZE_ADDRESS__)

void SharedMemory::begin() {}
void SharedMemory::bring_back() {}
void SharedMemory::put_away() {}

#else

namespace {

struct Range {
  void* begin = nullptr;
  size_t size = 0;
};

// Gives this library thread-local variables, and the calling thread its copy of them.
thread_local volatile char in_the_range = 0;

int find_range(dl_phdr_info* library, size_t, void* found) {
  bool is_ours = false;
  Range range;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const auto& header = library->dlpi_phdr[i];
    const auto offset = reinterpret_cast<uintptr_t>(&find_range) - (library->dlpi_addr + header.p_vaddr);
    if (header.p_type == PT_LOAD && offset < header.p_memsz) is_ours = true;
    if (header.p_type == PT_TLS) range = {library->dlpi_tls_data, header.p_memsz};
  }
  if (is_ours) *static_cast<Range*>(found) = range;
  return is_ours;
}

// The thread-local variables of the calling thread.
const Range& variables() {
  static Range range;
  static std::thread::id owner;
  if (owner != std::this_thread::get_id()) {
    owner = std::this_thread::get_id();
    in_the_range = 0;
    dl_iterate_phdr(&find_range, &range);
  }
  return range;
}

}  // namespace

void SharedMemory::begin() { memset(variables().begin, 0xFF, variables().size); }
void SharedMemory::bring_back() { memcpy(variables().begin, away_.data(), away_.size()); }
void SharedMemory::put_away() {
  const auto* bytes = static_cast<const unsigned char*>(variables().begin);
  away_.assign(bytes, bytes + variables().size);
}

#endif

}  // namespace emulation
