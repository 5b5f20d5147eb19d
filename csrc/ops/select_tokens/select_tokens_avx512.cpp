#include "select_tokens_simd.h"

namespace segkernel {

const SelectKernelTable kSelectAvx512 = kSelectSimd;

}  // namespace segkernel
