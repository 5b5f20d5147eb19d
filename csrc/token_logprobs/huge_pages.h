// A fresh buffer of hundreds of megabytes costs more in 4 KiB page faults than in being written.
#pragma once

#include <cstdint>

#include "../tensors.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace segkernel {

// Asks for huge pages in the whole 2 MiB pages of a buffer not yet written to. Only a hint: it may be refused.
inline void use_huge_pages(void* buffer, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto begin = (reinterpret_cast<uintptr_t>(buffer) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(buffer) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)buffer;
  (void)bytes;
#endif
}

// A contiguous tensor of the shape and dtype of `like`.
inline Tensor empty_in_huge_pages(const Tensor& like) {
  Tensor fresh = torch::stable::new_empty(like, like.sizes());
  use_huge_pages(fresh.mutable_data_ptr(), fresh.numel() * fresh.element_size());
  return fresh;
}

}  // namespace segkernel
