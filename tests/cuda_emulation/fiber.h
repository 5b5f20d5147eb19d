// Threads of a block as fibers: each has a stack of its own, and one runs until it says that another may.
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

  // Makes `entry` what the next `resume` runs, from its beginning, whatever the fiber was at before.
  void start(void (*entry)());
  // Called by the thread that owns the fibers: returns when the fiber calls `pause`.
  void resume();
  // Called by the running fiber: returns when it is resumed; `for_good` says that it never will be.
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
  // What AddressSanitizer wants to know.
  bool finished_ = true;
  void* fake_stack_ = nullptr;
  void* owner_fake_stack_ = nullptr;
  const void* owner_stack_ = nullptr;
  size_t owner_stack_size_ = 0;

  void enter();
  static void trampoline();
};

}  // namespace emulation
