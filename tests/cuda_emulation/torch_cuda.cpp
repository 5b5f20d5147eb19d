// The functions of libtorch_cuda that launchers call, for a torch without CUDA: one device with one stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include "stream.h"

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* guard) {
  emulation::make_device_current();
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) {
  emulation::leave_device();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = emulation::current_stream();
  return AOTI_TORCH_SUCCESS;
}
