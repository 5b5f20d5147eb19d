// Where a launcher works: the tensor's device, made current, and torch's current stream there.
#pragma once

#include <cuda_runtime.h>

#include "../cuda/launch.h"
#include "arguments.h"

// Which tensors the kernels are registered for. With SK_EMULATED_CUDA a host compiler builds them for tensors in host
// memory, to run the operators' tests where there is no GPU.
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

// Also the `Device` that the launcher's other tensors must be on, and on which it allocates.
class DeviceScope : public Device {
 public:
  DeviceScope(const char* argument, const Tensor& tensor) : Device{cuda_device_type(), tensor.get_device_index()} {
    if (!holds(tensor)) fail(argument, "expected a CUDA tensor");
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

 private:
  CUDAGuardHandle guard_;
};

}  // namespace segkernel
