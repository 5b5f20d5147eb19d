// Fibers: threads of a block with a stack each, scheduled cooperatively.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Resets the fiber: the next `resume` calls `entry`.
  void start(void (*entry)());
  // Called by the owning thread. Returns when the fiber calls `pause`.
  void resume();
  // Called by the running fiber. Returns when it is resumed; with `for_good` it never is.
  void pause(bool for_good = false);

 private:
  void* stack_;
#if defined(__x86_64__)
  void* stack_pointer_;
  void* owner_stack_pointer_;
#else
  ucontext_t context_;
  ucontext_t owner_;
#endif
  void (*entry_)() = nullptr;
  // State of AddressSanitizer's fiber annotations.
  bool finished_ = true;
  void* fake_stack_ = nullptr;
  void* owner_fake_stack_ = nullptr;
  const void* owner_stack_ = nullptr;
  size_t owner_stack_size_ = 0;

  void enter();
  static void trampoline();
};

}  // namespace emulation
