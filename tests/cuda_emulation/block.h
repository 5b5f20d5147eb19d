// A few blocks at a time: their threads as fibers, what they wait for, and what they must not do.
//
// A later block gets ahead of the earlier ones as far as it can: to its end, or until all of its threads wait in
// __nanosleep for what another block writes. What CUDA leaves undefined is an error here: a barrier that some threads
// of the block never reach, a shuffle or ballot that a named lane never reaches or reaches elsewhere in the program, a
// shuffle from a lane that takes no part.
#pragma once

#include <cstdint>
#include <source_location>
#include <string>

namespace emulation {

using Where = std::source_location;

struct Extent {
  unsigned x, y, z;
};

// Runs every thread of every block. Throws std::runtime_error for what a thread must not do.
void run_grid(const Extent& grid, const Extent& block, void (*body)(const void*), const void* arguments);

std::string place_of(const Where& where);

// Called by a thread of the block. The first ends the launch with an error.
[[noreturn]] void fail(const std::string& message);

// Returns how many threads of the block came with `predicate`.
int block_barrier(const char* what, bool predicate, const Where& where);

// Lets others go on; an error when nobody can.
void nap(const Where& where);

int lane_of_thread();
// Every lane of `mask` gives `value` and gets what lane `source` gave.
uint64_t warp_exchange(const char* what, unsigned mask, uint64_t value, int source, const Where& where);
// Which lanes of `mask` came with `predicate`.
unsigned warp_ballot(const char* what, unsigned mask, bool predicate, const Where& where);

}  // namespace emulation
