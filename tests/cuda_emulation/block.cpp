#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

namespace emulation {

std::string place_of(const Where& where) {
  const std::string path = where.file_name();
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(where.line());
}

namespace {

constexpr int kWarp = 32;

enum class State { ready, napping, at_barrier, at_warp_operation, exited };

struct Thread {
  Fiber fiber;
  uint3 index;
  State state;
  const char* waits_at;
  Where where;
  uint64_t given;  // argument of the warp operation, then its result
  int source;
};

// A warp operation that some lanes of its mask have reached. Lanes of disjoint masks may be at different operations.
struct WarpOperation {
  unsigned mask = 0;
  unsigned arrived = 0;
};

struct Warp {
  WarpOperation operations[kWarp];  // by the first lane of the mask
};

std::string name_of(const uint3& index) {
  std::ostringstream name;
  name << "(" << index.x << ", " << index.y << ", " << index.z << ")";
  return name.str();
}

// File names are compared as pointers: within one kernel a file's name is one string.
bool same(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() && a.file_name() == b.file_name();
}

class Block {
 public:
  void start(const uint3& index, int count, void (*body)(const void*), const void* arguments);
  // Runs the threads until each has exited or waits in __nanosleep.
  void resume();
  bool done() const { return exited_ == count_; }
  std::string napping_thread() const;
  void nap(const Where& where) { wait(State::napping, "__nanosleep", where); }
  [[noreturn]] void fail(const std::string& message);
  int barrier(const char* what, bool predicate, const Where& where);
  uint64_t warp_operation(const char* what, unsigned mask, uint64_t given, int source, const Where& where);
  int index_of_current() const { return current_index_; }

 private:
  uint3 index_;
  SharedMemory shared_memory_;
  std::vector<std::unique_ptr<Thread>> threads_;  // as many as the largest block so far had
  std::vector<int> warp_order_;
  std::vector<int> lane_order_;
  std::vector<Warp> warps_;
  int count_ = 0;
  int exited_ = 0;
  int at_barrier_ = 0;
  const Thread* first_at_barrier_ = nullptr;
  int at_barrier_with_predicate_ = 0;
  int barrier_result_ = 0;
  Thread* current_ = nullptr;
  int current_index_ = 0;
  void (*body_)(const void*) = nullptr;
  const void* arguments_ = nullptr;
  std::string error_;

  void run_thread();
  void wait(State state, const char* what, const Where& where);
  void complete(Warp& warp, int first_thread, WarpOperation& operation);
  std::string describe(const Thread& thread) const;
  std::string deadlock() const;
  bool run_warp(int warp);
  void reorder(std::vector<int>& order);
};

// One launch runs at a time, since blockIdx and the other variables of a kernel are global.
std::mutex launching;
Block* running = nullptr;

struct Running {
  explicit Running(Block* block) { running = block; }
  ~Running() { running = nullptr; }
};

// Never destroyed: fibers may still be in use at the end of the process.
std::vector<std::unique_ptr<Block>>& resident_blocks() {
  static auto& blocks = *new std::vector<std::unique_ptr<Block>>;
  const size_t count = SharedMemory::kTakesTurns ? 3 : 1;
  while (blocks.size() < count) blocks.push_back(std::make_unique<Block>());
  return blocks;
}

void Block::start(const uint3& index, int count, void (*body)(const void*), const void* arguments) {
  while (static_cast<int>(threads_.size()) < count) threads_.push_back(std::make_unique<Thread>());
  index_ = index;
  count_ = count;
  exited_ = at_barrier_ = at_barrier_with_predicate_ = 0;
  body_ = body;
  arguments_ = arguments;
  error_.clear();
  warps_.assign((count + kWarp - 1) / kWarp, {});
  warp_order_.resize(warps_.size());
  lane_order_.resize(kWarp);
  std::iota(warp_order_.begin(), warp_order_.end(), 0);
  std::iota(lane_order_.begin(), lane_order_.end(), 0);
  for (int i = 0; i < count; ++i) {
    Thread& thread = *threads_[i];
    const unsigned linear = static_cast<unsigned>(i);
    thread.index = {linear % blockDim.x, linear / blockDim.x % blockDim.y, linear / blockDim.x / blockDim.y};
    thread.state = State::ready;
    thread.fiber.start([] { running->run_thread(); });
  }
  shared_memory_.begin();
  shared_memory_.put_away();
  // Blocks with an odd index start in the reverse order.
  if (index.x % 2 == 1) {
    reorder(warp_order_);
    reorder(lane_order_);
  }
}

void Block::resume() {
  const Running here(this);
  blockIdx = index_;
  shared_memory_.bring_back();
  for (int i = 0; i < count_; ++i) {
    if (threads_[i]->state == State::napping) threads_[i]->state = State::ready;
  }
  for (bool progress = true; progress && !done();) {
    progress = false;
    for (const int warp : warp_order_) progress |= run_warp(warp);
    if (progress) reorder(warp_order_);
  }
  if (!done() && napping_thread().empty()) throw std::runtime_error(deadlock());
  shared_memory_.put_away();
}

// Runs the warp up to the next barrier, ahead of all other warps.
bool Block::run_warp(int warp) {
  bool progress = false;
  for (bool again = true; again;) {
    again = false;
    for (const int lane : lane_order_) {
      const int i = warp * kWarp + lane;
      if (i >= count_ || threads_[i]->state != State::ready) continue;
      again = true;
      current_ = threads_[i].get();
      current_index_ = i;
      threadIdx = current_->index;
      current_->fiber.resume();
      current_ = nullptr;
      if (!error_.empty()) throw std::runtime_error(error_);
    }
    if (again) reorder(lane_order_);
    progress |= again;
  }
  return progress;
}

// A correct kernel does not depend on the order of warps between two barriers, nor on that of lanes between two warp
// operations. They run alternately in ascending and descending order, or in random orders with
// SEGKERNEL_EMULATION_SEED.
void Block::reorder(std::vector<int>& order) {
  static const char* seed = std::getenv("SEGKERNEL_EMULATION_SEED");
  static std::minstd_rand random(seed == nullptr ? 0 : static_cast<unsigned>(std::atoi(seed)));
  if (seed == nullptr) {
    std::reverse(order.begin(), order.end());
  } else {
    std::shuffle(order.begin(), order.end(), random);
  }
}

void Block::run_thread() {
  body_(arguments_);
  if (at_barrier_ > 0) fail("exits while other threads wait for it at __syncthreads");
  current_->state = State::exited;
  ++exited_;
  current_->fiber.pause(/*for_good=*/true);
}

void Block::fail(const std::string& message) {
  error_ = "CUDA emulation: thread " + name_of(current_->index) + " of block " + name_of(index_) + " " + message;
  current_->fiber.pause(/*for_good=*/true);
  __builtin_unreachable();
}

void Block::wait(State state, const char* what, const Where& where) {
  current_->state = state;
  current_->waits_at = what;
  current_->where = where;
  current_->fiber.pause();
}

int Block::barrier(const char* what, bool predicate, const Where& where) {
  if (exited_ > 0) fail("is at " + std::string(what) + " (" + place_of(where) + "), which others exited without");
  if (at_barrier_ > 0 && !same(first_at_barrier_->where, where)) {
    fail("is at " + std::string(what) + " (" + place_of(where) + "), but " + describe(*first_at_barrier_));
  }
  if (at_barrier_ == 0) first_at_barrier_ = current_;
  at_barrier_with_predicate_ += predicate;
  if (++at_barrier_ < count_) {
    wait(State::at_barrier, what, where);
    return barrier_result_;
  }
  for (int i = 0; i < count_; ++i) threads_[i]->state = State::ready;
  barrier_result_ = at_barrier_with_predicate_;
  at_barrier_ = at_barrier_with_predicate_ = 0;
  return barrier_result_;
}

uint64_t Block::warp_operation(const char* what, unsigned mask, uint64_t given, int source, const Where& where) {
  const int lane = current_index_ % kWarp;
  const int first_thread = current_index_ - lane;
  const auto at = [&] { return "is at " + std::string(what) + " (" + place_of(where) + ")"; };
  if ((mask >> lane & 1) == 0) fail(at() + " with a mask that leaves itself out");
  if (source >= 0 && (mask >> source & 1) == 0) {
    fail(at() + " and reads from lane " + std::to_string(source) + ", which is not in the mask");
  }
  const int last_lane = std::min(kWarp, count_ - first_thread) - 1;
  if (last_lane < kWarp - 1 && mask >> (last_lane + 1) != 0)
    fail(at() + " with a mask that names lanes that do not exist");

  Warp& warp = warps_[current_index_ / kWarp];
  const int first_lane = __builtin_ctz(mask);
  WarpOperation& operation = warp.operations[first_lane];
  if (operation.arrived != 0) {
    const Thread& other = *threads_[first_thread + __builtin_ctz(operation.arrived)];
    if (operation.mask != mask || !same(other.where, where)) fail(at() + ", but " + describe(other));
  }
  operation.mask = mask;
  operation.arrived |= 1u << lane;
  current_->given = given;
  current_->source = source;
  if (operation.arrived == mask) {
    complete(warp, first_thread, operation);
  } else {
    wait(State::at_warp_operation, what, where);
  }
  return current_->given;
}

// Computes all results at once: the first thread to resume may overwrite its argument in the next operation.
void Block::complete(Warp& warp, int first_thread, WarpOperation& operation) {
  uint64_t given[kWarp];
  unsigned ballot = 0;
  for (unsigned rest = operation.mask; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    given[lane] = threads_[first_thread + lane]->given;
    if (given[lane] != 0) ballot |= 1u << lane;
  }
  for (unsigned rest = operation.mask; rest != 0; rest &= rest - 1) {
    Thread& thread = *threads_[first_thread + __builtin_ctz(rest)];
    thread.given = thread.source < 0 ? ballot : given[thread.source];
    thread.state = State::ready;
  }
  operation = {};
}

std::string Block::describe(const Thread& thread) const {
  const std::string name = "thread " + name_of(thread.index);
  if (thread.state == State::exited) return name + " has exited";
  if (thread.state == State::ready) return name + " runs";
  return name + " waits at " + thread.waits_at + " (" + place_of(thread.where) + ")";
}

std::string Block::napping_thread() const {
  for (int i = 0; i < count_; ++i) {
    if (threads_[i]->state == State::napping) return describe(*threads_[i]) + " of block " + name_of(index_);
  }
  return "";
}

// Threads that wait at barriers report errors there, so some thread waits for lanes that wait elsewhere.
std::string Block::deadlock() const {
  std::string message = "CUDA emulation: no thread of block " + name_of(index_) + " can resume: ";
  for (int i = 0; i < count_; ++i) {
    if (threads_[i]->state != State::at_warp_operation) continue;
    const auto awaits = [&](const WarpOperation& operation) { return operation.arrived >> i % kWarp & 1; };
    const auto& operations = warps_[i / kWarp].operations;
    const WarpOperation& operation = *std::find_if(operations, operations + kWarp, awaits);
    const int missing = i / kWarp * kWarp + __builtin_ctz(operation.mask & ~operation.arrived);
    return message + describe(*threads_[i]) + ", and " + describe(*threads_[missing]);
  }
  return message;
}

}  // namespace

void run_grid(const Extent& grid, const Extent& block, void (*body)(const void*), const void* arguments) {
  constexpr int kPatience = 1000;
  const std::lock_guard<std::mutex> lock(launching);
  gridDim = dim3(grid.x, grid.y, grid.z);
  blockDim = dim3(block.x, block.y, block.z);
  const uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
  std::vector<Block*> free;
  for (const auto& resident : resident_blocks()) free.push_back(resident.get());
  std::vector<Block*> active;  // in the order in which they started
  uint64_t started = 0;
  for (int rounds = 0; started < count || !active.empty(); ++rounds) {
    for (; started < count && !free.empty(); ++started) {
      active.push_back(free.back());
      free.pop_back();
      const uint3 index{static_cast<unsigned>(started % grid.x), static_cast<unsigned>(started / grid.x % grid.y),
                        static_cast<unsigned>(started / grid.x / grid.y)};
      active.back()->start(index, static_cast<int>(block.x * block.y * block.z), body, arguments);
    }
    std::for_each(active.rbegin(), active.rend(), [](Block* latest) { latest->resume(); });
    const auto ended = std::stable_partition(active.begin(), active.end(), [](Block* each) { return !each->done(); });
    if (ended != active.end()) rounds = 0;
    free.insert(free.end(), ended, active.end());
    active.erase(ended, active.end());
    if (rounds == kPatience) {
      throw std::runtime_error("CUDA emulation: no block can finish: " + active.front()->napping_thread());
    }
  }
}

void fail(const std::string& message) {
  if (running == nullptr) {
    std::fprintf(stderr, "CUDA emulation: the host %s\n", message.c_str());
    std::abort();
  }
  running->fail(message);
}

int block_barrier(const char* what, bool predicate, const Where& where) {
  return running->barrier(what, predicate, where);
}

int lane_of_thread() { return running->index_of_current() % kWarp; }

void nap(const Where& where) { running->nap(where); }

uint64_t warp_exchange(const char* what, unsigned mask, uint64_t value, int source, const Where& where) {
  return running->warp_operation(what, mask, value, source, where);
}

unsigned warp_ballot(const char* what, unsigned mask, bool predicate, const Where& where) {
  return static_cast<unsigned>(running->warp_operation(what, mask, predicate, -1, where));
}

}  // namespace emulation
