#include "../../simd/vec_double.h"
#include "../../simd/vec_math.h"
#include "token_logprobs_row.h"

namespace segkernel {

const RowKernels<double> kLogprobKernelsDouble = kRowKernels<VecDouble, double>;
const LogprobKernels kLogprobKernelsBaseline = kLogprobKernels<Vec>;

}  // namespace segkernel
