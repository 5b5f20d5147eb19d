// The part of CUDA that the sources of this repository use, for a host compiler. For tests only.
//
// Left out on purpose, so that their use does not compile: floating-point atomics (results would depend on the run),
// __activemask (results would depend on the scheduling), dynamic shared memory, inline PTX; and on the host all
// functions that wait for the device or allocate without torch.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>

#include "block.h"
#include "shared_memory.h"
#include "stream.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

// Indices of the running thread, set when it is resumed. Variables, not macros, since structures of CUDA have fields of
// these names.
inline uint3 threadIdx;
inline uint3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;
constexpr int warpSize = 32;

#include "device_functions.h"
#include "device_math.h"

// --- Host ------------------------------------------------------------------------------------------------------------

using cudaStream_t = void*;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
};

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
  }
  return "unrecognized error code";
}

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

// Few multiprocessors, so that small batches already give each several rows.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 3;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream = nullptr) {
  emulation::submit(stream, [=] { memset(data, value, bytes); });
  return cudaSuccess;
}

struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emulation {

// Whether a launch configuration is valid on every device.
inline bool accepts(const cudaLaunchConfig_t& config) {
  const dim3 grid = config.gridDim;
  const dim3 block = config.blockDim;
  const bool grid_fits = grid.x - 1 < 0x7fffffffu && grid.y - 1 < 65535 && grid.z - 1 < 65535;  // 0 - 1 wraps around
  const bool block_fits = block.x - 1 < 1024 && block.y - 1 < 1024 && block.z - 1 < 64;
  return grid_fits && block_fits && block.x * block.y * block.z <= 1024 && config.dynamicSmemBytes == 0;
}

}  // namespace emulation

// Every thread gets its own copy of the arguments, converted to the types of the kernel's parameters.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (!emulation::accepts(*config)) return cudaErrorInvalidConfiguration;
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
    emulation::Extent grid, block;
  };
  const auto extent = [](const dim3& size) -> emulation::Extent { return {size.x, size.y, size.z}; };
  const Call call{kernel, {std::forward<Arguments>(arguments)...}, extent(config->gridDim), extent(config->blockDim)};
  const auto body = [](const void* data) {
    const Call& call = *static_cast<const Call*>(data);
    std::apply(call.kernel, call.arguments);
  };
  emulation::submit(config->stream, [=] { emulation::run_grid(call.grid, call.block, body, &call); });
  return cudaSuccess;
}
