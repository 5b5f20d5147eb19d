#include "stream.h"

#include <stdexcept>
#include <utility>
#include <vector>

namespace emulation {

namespace {

char stream_of_device;
thread_local int times_current = 0;

bool is_recording = false;
std::vector<std::function<void()>> recorded;

}  // namespace

void* current_stream() { return times_current > 0 ? &stream_of_device : nullptr; }
void make_device_current() { ++times_current; }
void leave_device() { --times_current; }

void submit(void* stream, std::function<void()> work) {
  if (stream != current_stream())
    throw std::runtime_error("CUDA emulation: work on a stream that is not the current one");
  if (is_recording) {
    recorded.push_back(std::move(work));
  } else {
    work();
  }
}

void record() {
  recorded.clear();
  is_recording = true;
}

void end_recording() { is_recording = false; }

void replay() {
  for (const auto& work : recorded) work();
}

}  // namespace emulation
