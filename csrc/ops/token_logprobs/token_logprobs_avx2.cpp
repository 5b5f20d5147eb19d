#include "../../simd/vec_math.h"
#include "token_logprobs_row.h"

namespace segkernel {

const LogprobKernels kLogprobKernelsAvx2 = kLogprobKernels<Vec>;

}  // namespace segkernel
