// Shared memory of a block as static variables. The threads are fibers of one host thread, and blocks take turns.
//
// Every block starts with all of it poisoned with bytes 0xFF (NaN as a float), so that a read before the write does not
// return a plausible value such as zero or the previous block's. The variables are thread-local and therefore lie in
// one range of memory, which the dynamic linker reports. Under AddressSanitizer they are ordinary static variables,
// whose ends are guarded.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

#include <cstddef>
#include <vector>

namespace emulation {

// One block's contents of shared memory. Resident blocks take turns with the variables.
class SharedMemory {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kTakesTurns = false;
#else
  static constexpr bool kTakesTurns = true;
#endif

  // Poisons the variables for a new block.
  void begin();
  void bring_back();
  void put_away();

 private:
  std::vector<unsigned char> away_;
};

}  // namespace emulation
