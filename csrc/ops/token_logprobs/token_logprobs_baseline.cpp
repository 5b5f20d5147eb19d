#include "../../core/scalar_vec.h"
#include "../../simd/vec_math.h"
#include "token_logprobs_row.h"

namespace segkernel {

const RowKernels<double> kLogprobKernelsDouble = kRowKernels<ScalarVec<double>, double>;
const LogprobKernels kLogprobKernelsBaseline = kLogprobKernels<Vec>;

}  // namespace segkernel
