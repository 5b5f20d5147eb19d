// Shared memory of a block is a static variable: the threads are fibers of one host thread, and blocks take turns.
//
// Every block starts with all of it poisoned: bytes 0xFF, NaN as a float, so that what a thread reads before another
// has written it does not pass for the zero, or the previous block's value, that it might be. As thread-local variables
// they all lie in one range that the dynamic linker knows, which is how they are found. Under AddressSanitizer they
// are ordinary static variables instead: those have guarded ends.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

#include <cstddef>
#include <vector>

namespace emulation {

// What one block has in it. Blocks that run at the same time take turns with the variables.
class SharedMemory {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kTakesTurns = false;
#else
  static constexpr bool kTakesTurns = true;
#endif

  // Makes the variables this block's, poisoned.
  void begin();
  void bring_back();
  void put_away();

 private:
  std::vector<unsigned char> away_;
};

}  // namespace emulation
