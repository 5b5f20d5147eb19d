#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

namespace {

// Reserved; pages are allocated on first access. Frames are larger under AddressSanitizer.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackSize = 256 << 10;
#else
constexpr size_t kStackSize = 64 << 10;
#endif
constexpr size_t kGuardSize = 64 << 10;  // below the stack, inaccessible; a multiple of any page size

Fiber* entering = nullptr;

}  // namespace

#if defined(__x86_64__)
// Saves the callee-saved registers and the stack pointer, then continues where `to` was saved. ucontext needs two
// system calls for that, which makes a warp shuffle thirty times slower.
extern "C" void emulation_switch_stack(void** from, void* to);
asm(R"(
  .text
  .local emulation_switch_stack
  .type emulation_switch_stack, @function
emulation_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulation_switch_stack, .-emulation_switch_stack
)");
#endif

Fiber::Fiber() {
  void* memory = mmap(nullptr, kGuardSize + kStackSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardSize, PROT_NONE);
  stack_ = static_cast<char*>(memory) + kGuardSize;
}

Fiber::~Fiber() { munmap(static_cast<char*>(stack_) - kGuardSize, kGuardSize + kStackSize); }

void Fiber::start(void (*entry)()) {
  entry_ = entry;
  fake_stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  if (!finished_) ASAN_UNPOISON_MEMORY_REGION(stack_, kStackSize);  // the frames of an abandoned fiber
  finished_ = false;
#endif
#if defined(__x86_64__)
  // The stack as after a call of `trampoline` whose first instruction called `emulation_switch_stack`.
  auto** top = reinterpret_cast<void**>(static_cast<char*>(stack_) + kStackSize);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::trampoline);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = kStackSize;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::trampoline, 0);
#endif
}

void Fiber::trampoline() { entering->enter(); }

void Fiber::enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &owner_stack_, &owner_stack_size_);
#endif
  entry_();
}

void Fiber::resume() {
  entering = this;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&owner_fake_stack_, stack_, kStackSize);
#endif
#if defined(__x86_64__)
  emulation_switch_stack(&owner_stack_pointer_, stack_pointer_);
#else
  swapcontext(&owner_, &context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(owner_fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::pause(bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  if (for_good) {
    __asan_handle_no_return();  // its frames end here
    finished_ = true;
  }
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, owner_stack_, owner_stack_size_);
#endif
#if defined(__x86_64__)
  emulation_switch_stack(&stack_pointer_, owner_stack_pointer_);
#else
  swapcontext(&context_, &owner_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &owner_stack_, &owner_stack_size_);
#endif
}

}  // namespace emulation
