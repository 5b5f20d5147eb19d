// Scheduler of a few blocks at a time, whose threads are fibers, and detection of undefined behavior.
//
// Later blocks run ahead of earlier ones: to their end, or until all of their threads wait in __nanosleep for a write
// of another block. Behavior that CUDA leaves undefined is an error here: a barrier that some threads of the block
// never reach, a shuffle or ballot that a lane of the mask never reaches or reaches elsewhere in the program, a shuffle
// from a lane outside the mask.
#pragma once

#include <cstdint>
#include <source_location>
#include <string>

namespace emulation {

using Where = std::source_location;

struct Extent {
  unsigned x, y, z;
};

// Runs every thread of every block. Throws std::runtime_error for undefined behavior of a thread.
void run_grid(const Extent& grid, const Extent& block, void (*body)(const void*), const void* arguments);

std::string place_of(const Where& where);

// Called by a thread of a block: ends the launch with an error.
[[noreturn]] void fail(const std::string& message);

// Returns the number of threads of the block with `predicate`.
int block_barrier(const char* what, bool predicate, const Where& where);

// Lets other threads run; an error if none can.
void nap(const Where& where);

int lane_of_thread();
// Every lane of `mask` passes `value` and gets the value of lane `source`.
uint64_t warp_exchange(const char* what, unsigned mask, uint64_t value, int source, const Where& where);
// The lanes of `mask` with `predicate`.
unsigned warp_ballot(const char* what, unsigned mask, bool predicate, const Where& where);

}  // namespace emulation
