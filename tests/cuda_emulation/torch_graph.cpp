// CUDA graphs on torch's tensors.
#undef TORCH_TARGET_VERSION  // allocators are not part of the stable ABI
#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <cstring>

#include "stream.h"

namespace {

// Allocator while a graph is recorded. Replays write to this memory again, so it is never freed.
class MemoryOfGraphs : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override { return {std::malloc(bytes), c10::Device(c10::kCPU)}; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

c10::Allocator* before_recording = nullptr;

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void record_graph() {
  before_recording = c10::GetCPUAllocator();
  c10::SetCPUAllocator(new MemoryOfGraphs);
  emulation::record();
}

EXPORT void end_graph() {
  emulation::end_recording();
  c10::SetCPUAllocator(before_recording);
}

EXPORT void replay_graph() { emulation::replay(); }
