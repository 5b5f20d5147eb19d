// What the host hands to the device: work on the device's one stream. It is done at once or, while a graph is being
// recorded, not before the graph is replayed.
#pragma once

#include <functional>

namespace emulation {

// Torch's current stream of a device that is current, too. Without one, work goes to the default stream, nullptr.
void* current_stream();
void make_device_current();
void leave_device();

// Throws std::runtime_error when `stream` is not the current one.
void submit(void* stream, std::function<void()> work);

void record();
void end_recording();
void replay();

}  // namespace emulation
