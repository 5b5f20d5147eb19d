// CUDA device guard, and torch's current stream.
#pragma once

#include <cuda_runtime.h>

#include "../cuda/launch.h"
#include "arguments.h"

// The dispatch key of the kernels. With SK_EMULATED_CUDA a host compiler builds them for CPU tensors, to test them
// without a GPU.
#if defined(SK_EMULATED_CUDA)
#define SK_CUDA_KEY CPU
#else
#define SK_CUDA_KEY CUDA
#endif

namespace segkernel {

inline int32_t cuda_device_type() {
#if defined(SK_EMULATED_CUDA)
  return aoti_torch_device_type_cpu();
#else
  return aoti_torch_device_type_cuda();
#endif
}

// Makes the tensor's device current while in scope. It is the `Device` of all other arguments and of the outputs.
class DeviceScope : public Device {
 public:
  DeviceScope(const char* argument, const Tensor& tensor) : Device{cuda_device_type(), tensor.get_device_index()} {
    if (!is_on(tensor, *this)) fail(argument, "expected a CUDA tensor");
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(index, &guard_));
  }
  ~DeviceScope() { aoti_torch_delete_cuda_guard(guard_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  cudaStream_t stream() const {
    void* stream;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
    return static_cast<cudaStream_t>(stream);
  }

  int multiprocessors() const {
    int count;
    check_cuda("device", "query", cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index));
    return count;
  }

 private:
  CUDAGuardHandle guard_;
};

}  // namespace segkernel
