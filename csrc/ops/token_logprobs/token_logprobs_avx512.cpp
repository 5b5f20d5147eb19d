#include "../../simd/vec_avx512.h"
#include "token_logprobs_row.h"

namespace segkernel {

const LogprobKernels kLogprobKernelsAvx512 = kLogprobKernels<VecAvx512>;

}  // namespace segkernel
