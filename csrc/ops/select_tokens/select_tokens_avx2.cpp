#include "select_tokens_simd.h"

namespace segkernel {

const SelectKernelTable kSelectAvx2 = kSelectSimd;

}  // namespace segkernel
