#include "../../simd/vec_avx2.h"
#include "token_logprobs_row.h"

namespace segkernel {

const LogprobKernels kLogprobKernelsAvx2 = kLogprobKernels<VecAvx2>;

}  // namespace segkernel
