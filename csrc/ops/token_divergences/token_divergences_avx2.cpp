#include "../../simd/vec_math.h"
#include "token_divergences_row.h"

namespace segkernel {

const DivergenceKernels kDivergenceKernelsAvx2 = kDivergenceKernels<Vec>;

}  // namespace segkernel
