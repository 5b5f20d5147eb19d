#include "../../simd/vec_math.h"
#include "token_logprobs_row.h"

namespace segkernel {

const LogprobKernels kLogprobKernelsAvx512 = kLogprobKernels<Vec>;

}  // namespace segkernel
