// What the kernels' launchers need of libtorch_cuda, which a torch without CUDA has not: one device, one stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) { return AOTI_TORCH_SUCCESS; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
