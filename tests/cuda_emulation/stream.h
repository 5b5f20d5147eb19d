// The device's only stream. Work is done immediately or, while a graph is recorded, when the graph is replayed.
#pragma once

#include <functional>

namespace emulation {

// Torch's current stream if a device is current, else the default stream, nullptr.
void* current_stream();
void make_device_current();
void leave_device();

// Throws std::runtime_error if `stream` is not the current stream.
void submit(void* stream, std::function<void()> work);

void record();
void end_recording();
void replay();

}  // namespace emulation
