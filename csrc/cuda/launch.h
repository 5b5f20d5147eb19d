// Kernel launches whose errors become exceptions.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace segkernel {

inline void check_cuda(const char* op, const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which is reported here
  throw std::runtime_error(std::string(op) + ": " + what + " failed: " + cudaGetErrorString(error));
}

// `kernel<<<blocks, threads, 0, stream>>>(arguments...)` as a function call, which a host compiler also accepts.
// Launches nothing when `blocks` is 0.
template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
            Arguments&&... arguments) {
  if (blocks == 0) return;
  // The cast below would truncate a larger grid. CUDA itself reports all other invalid configurations.
  if (blocks > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error(std::string(op) + ": CUDA launch failed: " + std::to_string(blocks) + " blocks");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  check_cuda(op, "CUDA launch", cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace segkernel
