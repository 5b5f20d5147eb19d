// Device memory for the tile aggregates of one launch.
#pragma once

#include "../cuda/lookback.cuh"
#include "../cuda/tile_schedule.cuh"
#include "cuda_device.h"
#include "outputs.h"

namespace segkernel {

// `words` 64-bit words per block, set to 0 on the stream. Empty if every row is a single tile.
class TileMemory {
 public:
  TileMemory(const char* op, const TileSchedule& schedule, int words, const DeviceScope& device)
      : blocks_(schedule.count()),
        buffer_(empty<int64_t>({schedule.rows.length <= kTile ? 0 : blocks_ * words}, device)) {
    const int64_t count = buffer_.numel();
    if (count == 0) return;
    words_ = reinterpret_cast<uint64_t*>(mutable_data<int64_t>(buffer_));
    check_cuda(op, "cudaMemsetAsync", cudaMemsetAsync(words_, 0, count * sizeof(uint64_t), device.stream()));
  }

  // Aggregates that begin after the first `words` words of every block.
  template <class T>
  TileAggregates<T> aggregates(int words = 0) const {
    return TileAggregates<T>(words_ == nullptr ? nullptr : words_ + blocks_ * words);
  }

 private:
  int64_t blocks_;
  Tensor buffer_;
  uint64_t* words_ = nullptr;
};

}  // namespace segkernel
