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

namespace emulation {

void poison_shared_memory();

}  // namespace emulation
